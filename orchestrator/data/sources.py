"""The sources that a recipe names, written if they are to be, and opened."""

from collections.abc import Callable
from typing import Any

from orchestrator.data.digits_shards import ensure_digits
from orchestrator.data.index import Index
from orchestrator.recipe.data import EVAL, Source
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import open_store
from orchestrator.storage.uri import FILE_SCHEMES, scheme_of

Notify = Callable[[str, int, int], None]  # field of data, written clips, all clips


def ensure_sources(recipe: Recipe, *, on_clips: Notify) -> dict[str, Index]:
    """Indexes by field of ``data``; digits are written on first use.

    Raises:
        UserError: if a source is missing, incomplete or made of other clips.
        UnavailableError: if its store cannot be reached.
    """
    indexes = {
        name: _ensure(source, name, on_clips) for name, source in recipe.data.sources.items()
    }
    for index in indexes.values():
        index.check_shards()  # here, once: every rank opens them too
    return indexes


def _ensure(source: Source, name: str, on_clips: Notify) -> Index:
    if scheme_of(source.uri) not in FILE_SCHEMES:
        open_store(source.uri).check()  # less patient than reading is
    if source.digits is None:
        return Index.open(source.uri)

    def notify(written: int, clips: int) -> Any:
        on_clips(name, written, clips)

    return ensure_digits(
        source.digits,
        split="eval" if name == EVAL else "train",
        uri=source.uri,
        on_clips=notify,
        field=f"data.{name}.digits",
    )
