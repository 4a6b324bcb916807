"""A recipe as plain values, before it is checked."""

from collections.abc import Iterator
from typing import Any, TypeGuard

Tree = dict[str, Any]


def is_mapping(node: object) -> TypeGuard[Tree]:
    """Whether a node has named children."""
    return isinstance(node, dict)


def is_list(node: object) -> TypeGuard[list[Any]]:
    """Whether a node has numbered children."""
    return isinstance(node, list)


def unshared(node: Any) -> Any:
    """A copy in which no two places are one object, as YAML's anchors make them.

    Raises:
        RecursionError: if a node holds itself.
    """
    if is_mapping(node):
        return {key: unshared(value) for key, value in node.items()}
    if is_list(node):
        return [unshared(item) for item in node]
    return node


def texts(node: Any, *, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text below a node with its dotted place: items of a list by id, else by position."""
    if isinstance(node, str):
        yield place, node
    elif is_mapping(node):
        for key, value in node.items():
            yield from texts(value, place=f"{place}.{key}" if place else str(key))
    elif is_list(node):
        for position, item in enumerate(node):
            name = item.get("id", position) if is_mapping(item) else position
            yield from texts(item, place=f"{place}.{name}")
