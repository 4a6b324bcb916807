"""Nested settings as MLflow's flat parameters, within its limits."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

NAME_CHARS = 250
PARAM_CHARS = 6000
TAG_CHARS = 8000


def flatten(tree: Mapping[str, Any]) -> dict[str, str]:
    """Dotted names and text values, as ``--set`` would name them: ``stages.dit.train.steps``."""
    pairs = [pair for key, value in tree.items() for pair in _walk(value, str(key))]
    return {clean_name(name): cut(value, chars=PARAM_CHARS) for name, value in pairs}


def clean_name(name: str) -> str:
    """A metric's or parameter's name with only characters that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:NAME_CHARS]


def cut(text: str, *, chars: int) -> str:
    """At most ``chars`` characters; ``...`` marks what was cut."""
    return text if len(text) <= chars else text[: chars - 3] + "..."


def _walk(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping) and node:
        for key, child in node.items():
            yield from _walk(child, f"{prefix}.{key}")
    elif isinstance(node, list | tuple) and any(isinstance(one, Mapping) for one in node):
        for position, child in enumerate(node):
            label = child.get("id", position) if isinstance(child, Mapping) else position
            yield from _walk(child, f"{prefix}.{label}")
    else:
        yield prefix, node if isinstance(node, str) else json.dumps(node)
