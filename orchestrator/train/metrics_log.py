"""metrics.jsonl: every logged step of a stage, in the order of steps, once each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.storage.json_files import read_lines
from orchestrator.storage.local import writing
from orchestrator.storage.store import Store


class MetricsLog:
    """A local JSONL file; a checkpoint takes a copy of the whole of it to the run's folder.

    Attributes:
        damaged: lines of the run's copy that were left out.
    """

    def __init__(self, path: Path, *, store: Store, key: str) -> None:
        self._path = path
        self._store = store
        self._key = key
        self.damaged = 0
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)

    @property
    def uri(self) -> str | None:
        """The run's copy; None where there is none yet."""
        return f"{self._store.uri}/{self._key}" if self._store.exists(self._key) else None

    def resume(self, *, step: int) -> None:
        """Starts from the run's copy, without the steps after ``step``: they are run again."""
        rows: list[dict[str, Any]] = []
        if step and self._store.exists(self._key):
            rows, self.damaged = read_lines(self._store.get(self._key))
        kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
        with writing(self._path):
            self._path.write_text("".join(kept), encoding="utf-8")

    def append(self, values: Mapping[str, float], *, step: int, time_ms: int) -> None:
        """Adds one logged step."""
        line = json.dumps({"step": step, "time_ms": time_ms, **values})
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def copy(self) -> dict[str, bytes]:
        """The file as it is now, by its key in the run's folder."""
        return {self._key: self._path.read_bytes()}
