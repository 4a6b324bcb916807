"""A recipe as plain values, before it is checked."""

from typing import Any, TypeGuard

Tree = dict[str, Any]


def is_mapping(node: object) -> TypeGuard[Tree]:
    """Whether a node has named children."""
    return isinstance(node, dict)


def is_list(node: object) -> TypeGuard[list[Any]]:
    """Whether a node has numbered children."""
    return isinstance(node, list)
