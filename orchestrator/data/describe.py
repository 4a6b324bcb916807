"""Captions and labels of a stranger's sample, from its ``txt`` and ``json``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.data.names import is_utf8

_CAPTIONS = ("captions", "caption", "text")  # the first of them that is there
_MOST_FPS = 1e6
_TAKEN = (*_CAPTIONS, "fps", "labels")


@dataclass(frozen=True)
class Description:
    """What a sample's text members say; ``fps`` is None where they do not."""

    captions: tuple[str, ...]
    labels: dict[str, Any]
    fps: float | None


def describe(members: Mapping[str, bytes]) -> Description:
    """Reads ``txt`` and ``json``.

    Captions are ``txt``, or else the first of ``captions``, ``caption`` and ``text`` in ``json``,
    a text or a list of texts. ``fps`` in ``json`` is frames per second. All its other fields are
    labels, those below ``labels`` too.

    Args:
        members: bytes by extension.

    Raises:
        ValueError: if one is there and is not what it should be.
    """
    tree = _tree(members["json"]) if "json" in members else {}
    captions = _texts(_utf8("txt", members["txt"]), field="txt") if "txt" in members else ()
    field = next((name for name in _CAPTIONS if tree.get(name) is not None), None)
    if not captions and field is not None:
        captions = _texts(tree[field], field=field)
    labels = {name: value for name, value in tree.items() if name not in _TAKEN}
    below = tree.get("labels", {})
    labels |= below if isinstance(below, dict) else {"labels": below}
    return Description(captions=captions, labels=labels, fps=_rate(tree.get("fps")))


def _tree(data: bytes) -> dict[str, Any]:
    try:
        tree = json.loads(_utf8("json", data))
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("json: not JSON") from None
    if not isinstance(tree, dict):
        raise ValueError("json: not an object")
    return tree


def _utf8(ext: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{ext}: not UTF-8") from None


def _texts(value: object, *, field: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    words = tuple(text.strip() for text in texts if isinstance(text, str))
    if len(words) < len(texts):
        raise ValueError(f"json: {field} is not a text or a list of texts")
    if not all(is_utf8(text) for text in words):  # JSON can spell halves of characters
        raise ValueError(f"json: {field} is not UTF-8")
    return tuple(text for text in words if text)


def _rate(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 < value < _MOST_FPS:
        raise ValueError("json: fps is not a number above 0")
    return float(value)
