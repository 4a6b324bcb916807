"""A YAML file as a tree, overrides of its values, and what is wrong with it in one line."""

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from orchestrator.errors import UserError
from orchestrator.recipe.tree import Tree, is_list, is_mapping, unshared
from orchestrator.redact import redact


def read_tree(path: Path, *, what: str) -> Tree:
    """The mapping that a file holds; ``what`` names the file in errors.

    Raises:
        UserError: if it cannot be read or is no YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror or error}") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise UserError(f"{what} {path}: not YAML{line}: {problem}") from None
    if not is_mapping(tree):
        raise UserError(f"{what} {path}: holds a {type(tree).__name__}, wanted a mapping")
    try:
        return unshared(tree)
    except RecursionError:
        raise UserError(f"{what} {path}: an anchor holds itself, wanted a tree") from None


def apply_override(tree: Tree, override: str) -> None:
    """Sets one value, given as ``KEY=VALUE`` with dots in KEY; list items by id or position.

    Raises:
        UserError: if it is not that, or there is no such place.
    """
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"--set {override}: wanted KEY=VALUE")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not YAML") from None
    *parents, last = key.split(".")
    node: Any = tree
    for name in parents:
        node = _child(node, name, override)
    if is_list(node):
        node[_position(node, last, override)] = value
    elif is_mapping(node):
        node[last] = value
    else:
        raise UserError(
            f"--set {override}: {parents[-1]} is a {type(node).__name__}, not a mapping"
        )


def _child(node: Any, name: str, override: str) -> Any:
    if is_list(node):
        return node[_position(node, name, override)]
    if not is_mapping(node):
        raise UserError(f"--set {override}: nothing below {name}")
    return node.setdefault(name, {})


def _position(node: list[Any], name: str, override: str) -> int:
    for position, item in enumerate(node):
        if is_mapping(item) and item.get("id") == name:
            return position
    if name.isdigit() and int(name) < len(node):
        return int(name)
    ids = [str(item["id"]) for item in node if is_mapping(item) and "id" in item]
    raise UserError(f"--set {override}: no {name}, wanted one of {', '.join(ids) or len(node)}")


def in_one_line(error: ValidationError, tree: Tree) -> str:
    """The first thing that is wrong with a tree: field, value seen, value wanted."""
    errors = error.errors(include_url=False)
    first = errors[0]
    where = _field(first["loc"], tree)
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key{more}"
    if first["type"] == "missing":
        return f"{where}: missing, wanted a value{more}"
    if first["type"] == "value_error":
        return f"{where + ': ' if where else ''}{message}{more}"
    seen = redact(
        json.dumps(first["input"], default=str)
    )  # whole: half a URI may not look like one
    seen = seen if len(seen) <= 60 else seen[:57] + "..."
    return f"{where}={seen}: {message}{more}"


def _field(location: tuple[int | str, ...], tree: Tree) -> str:
    """Dotted path; stages by their id, without the names that a union adds."""
    names: list[str] = []
    node: Any = tree
    for step in location:
        if isinstance(step, int):
            node = node[step] if is_list(node) and step < len(node) else None
            label = node.get("id", step) if is_mapping(node) else step
            names.append(str(label))
        elif step.startswith("<") or (
            is_mapping(node) and step not in node and step == node.get("kind")
        ):
            continue
        else:
            names.append(step)
            node = node.get(step) if is_mapping(node) else None
    return ".".join(names)
