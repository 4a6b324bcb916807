"""The sources that a recipe names, written if they are to be, and opened."""

from collections.abc import Callable
from typing import Any

from orchestrator.data.digits.source import Split
from orchestrator.data.digits_shards import ensure_digits
from orchestrator.data.index import Index
from orchestrator.recipe.data import Source
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import open_store
from orchestrator.storage.uri import FILE_SCHEMES, scheme_of

Notify = Callable[[str, int, int], None]  # split, written clips, all clips


def ensure_sources(recipe: Recipe, *, on_clips: Notify) -> dict[str, Index]:
    """Indexes of ``train`` and ``eval``; digits are written on first use.

    Raises:
        UserError: if a source is missing, incomplete or made of other clips.
        UnavailableError: if its store cannot be reached.
    """
    return {
        "train": _ensure(recipe.data.train, "train", on_clips),
        "eval": _ensure(recipe.data.eval, "eval", on_clips),
    }


def _ensure(source: Source, split: Split, on_clips: Notify) -> Index:
    if scheme_of(source.uri) not in FILE_SCHEMES:
        open_store(source.uri).check()  # less patient than reading is
    if source.digits is None:
        return Index.open(source.uri)

    def notify(written: int, clips: int) -> Any:
        on_clips(split, written, clips)

    return ensure_digits(source.digits, split=split, uri=source.uri, on_clips=notify)
