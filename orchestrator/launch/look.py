"""Looking at a run's folder, once or again and again: what has not changed is not read again."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cascade.ends import read_end
from orchestrator.cascade.goodput_file import KEY
from orchestrator.cascade.goodput_rows import Row, from_lines
from orchestrator.cascade.versions import BEGUN
from orchestrator.launch.rank_times import RankTimes, newest_gang
from orchestrator.launch.run_folder import open_run
from orchestrator.launch.spending import by_stage, in_total
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.storage.attempts import newest_attempt
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.json_files import read_lines

_TAIL_BYTES = 64 << 10  # of metrics.jsonl: its last line is far shorter


@dataclass
class _File:
    """What was read of a file, and the tag that it had."""

    tag: str | None = None
    value: Any = None


@dataclass
class _Seen:
    """What need not be looked for again while no other start has the run."""

    attempts: int
    recipe: Recipe
    done: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


class Look:
    """A run's folder.

    A look costs a listing and two small calls, for every stage that is not done a listing and three
    small calls, and what has changed of the ledger and of the last lines of metrics.jsonl.

    Args:
        uri: the run's folder.

    Raises:
        UserError: if there is no run.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._store, recipe = open_run(uri)
        self._seen = _Seen(attempts=-1, recipe=recipe)
        self._files: dict[str, _File] = {}
        self._times: dict[str, RankTimes] = {}

    def read(self) -> dict[str, Any]:
        """Stages with their state and ranks; attempts, the newest one's end; goodput."""
        attempts = newest_attempt(self._store)
        if attempts != self._seen.attempts:
            _, recipe = open_run(self._uri)  # a start may have changed it
            self._seen = _Seen(attempts=attempts, recipe=recipe)
        end = read_end(self._store, attempt=attempts)
        rows, damaged = self._rows()
        recipe = self._seen.recipe
        return {
            "run": self._store.uri,
            "name": recipe.name,
            "attempts": attempts,
            "end": end,
            "stages": [self._stage(stage, rows=rows) for stage in recipe.stages],
            "goodput": _goodput(rows, recipe=recipe) if rows else None,
            "damaged_lines": damaged,
        }

    def _stage(self, stage: Stage, *, rows: list[Row]) -> dict[str, Any]:
        if stage.id in self._seen.done:
            return self._seen.done[stage.id]
        store, folder = self._store, f"stages/{stage.id}"
        commits = sorted(
            name.split("/")[-2]
            for name in store.list(f"{folder}/checkpoints/")
            if name.endswith("/COMMIT")
        )
        last = self._last_metrics(f"{folder}/metrics.jsonl")
        done = store.exists(f"{folder}/DONE")
        # A rank without a driver (torchrun) leaves no BEGUN; encoding leaves nothing else.
        started = bool(commits) or last is not None or store.exists(f"{folder}/{BEGUN}")
        gang = newest_gang(rows, stage=stage.id) if started and not done else []
        found = {
            "id": stage.id,
            "kind": stage.kind,
            "state": "done" if done else "started" if started else "waiting",
            "step": None if last is None else last["step"],
            "steps": stage.train.steps if stage.train else None,
            "checkpoint": int(commits[-1].removeprefix("step-")) if commits else None,
            "loss": None if last is None else last.get("loss"),
            "ranks": self._times.setdefault(stage.id, RankTimes()).take(gang),
        }
        if done:
            self._seen.done[stage.id] = found
        return found

    def _rows(self) -> tuple[list[Row], int]:
        def read(size: int) -> tuple[list[Row], int]:
            del size  # rows of old starts come first: all of it is wanted
            return from_lines(self._store.get(KEY))

        return self._cached(KEY, read) or ([], 0)

    def _last_metrics(self, key: str) -> dict[str, Any] | None:
        def read(size: int) -> dict[str, Any] | None:
            start = max(0, size - _TAIL_BYTES)
            raw = self._store.get_range(key, start=start, length=_TAIL_BYTES)
            rows, _ = read_lines(raw)  # what is cut off at the front is no line
            return rows[-1] if rows else None

        return self._cached(key, read)

    def _cached(self, key: str, read: Callable[[int], Any]) -> Any:
        """What ``read`` made of a file of so many bytes; None where there is none."""
        file = self._files.setdefault(key, _File())
        try:
            entry = self._store.entry(key)
            if entry.tag != file.tag:
                file.value, file.tag = read(entry.size), entry.tag
        except NotFoundError:
            self._files[key] = file = _File()
        return file.value


def _goodput(rows: list[Row], *, recipe: Recipe) -> dict[str, Any]:
    return {
        "currency": recipe.price.currency if recipe.price is not None else None,
        "stages": {one.name: one.as_json() for one in by_stage(rows, recipe=recipe)},
        "total": in_total(rows, recipe=recipe).as_json(),
    }
