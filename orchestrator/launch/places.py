"""Where a run, its clips and this machine's own notes of it are."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from orchestrator.recipe.data import MixedSource, Source
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import join_uri, resolve


def with_absolute_uris(recipe: Recipe) -> Recipe:
    """The recipe with places that mean the same in every process and on every host."""
    data = recipe.data.moved(resolve)
    cache = None if data.cache_dir is None else str(Path(data.cache_dir).expanduser().resolve())
    return recipe.model_copy(
        update={
            "runs": resolve(recipe.runs),
            "data": data.model_copy(update={"cache_dir": cache}),
        }
    )


def source_lines(title: str, sources: Mapping[str, Source]) -> list[str]:
    """A line per source of a field of ``data``, with its share where it is one of a mix."""
    weights = [one.weight for one in sources.values() if isinstance(one, MixedSource)]
    return [
        f"{title}{source.uri}"
        + (f" ({source.weight / sum(weights):.1%})" if isinstance(source, MixedSource) else "")
        for source in sources.values()
    ]


def run_uri(recipe: Recipe, *, run: str | None) -> str:
    """The run's folder: as given, or named after the recipe below ``runs``."""
    return resolve(run) if run else join_uri(resolve(recipe.runs), recipe.name)


def notes_dir() -> Path:
    """A folder of this user on this machine that outlives a command."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "rushes"


def logs_dir(run: str) -> Path:
    """Where this machine keeps the full text of a run's failures."""
    name = run.rstrip("/").rpartition("/")[2]
    return notes_dir() / "logs" / f"{name}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
