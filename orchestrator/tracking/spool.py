"""The local spool: events wait in an append-only file until the tracking server has them.

Layout of a spool folder (one per run, on local disk):
    events.jsonl            one event a line, only ever appended to
    state-TARGET.json       how far a tracking server has read, and what it holds
    rejected.jsonl          events that the server will never take, with its reason
    feeder.log, feeder.lock
"""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from orchestrator.errors import UnavailableError, UserError

Event = dict[str, Any]
Marks = dict[str, dict[str, int]]
"""Highest step stored, by stage ("" = the run itself) and metric name."""

EVENTS = "events.jsonl"
REJECTED = "rejected.jsonl"
LOG = "feeder.log"
LOCK = "feeder.lock"


def spool_folder(spool_dir: Path, *, run_uri: str) -> Path:
    """The folder of one run below ``spool_dir``."""
    return spool_dir / hashlib.sha256(run_uri.encode()).hexdigest()[:12]


class SpoolWriter:
    """Appends events, each with one write, from any thread.

    Raises:
        UserError: if the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / EVENTS
        self._lock = threading.Lock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            # A crash may have left half a line: end it, so that the next one is whole.
            size = os.fstat(self._fd).st_size
            self._torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
        except OSError as error:
            raise UserError(f"tracking spool {self._path}: {error.strerror}") from None

    @property
    def size(self) -> int:
        """Bytes written so far, by this writer and those before it."""
        return os.fstat(self._fd).st_size

    def append(self, event: Event) -> None:
        """Writes one line.

        Raises:
            UnavailableError: if the disk does not take it.
        """
        line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            todo = b"\n" + line if self._torn else line
            self._torn = True
            try:
                while todo:
                    todo = todo[os.write(self._fd, todo) :]
            except OSError as error:
                raise UnavailableError(f"tracking spool {self._path}: {error.strerror}") from None
            self._torn = False

    def close(self) -> None:
        """Closes the file; ``append`` then raises."""
        with self._lock:
            os.close(self._fd)
            self._fd = -1  # the system may give the old number to another file


@dataclass(frozen=True)
class Line:
    """One whole line of the spool; ``event`` is None where it is not a JSON object."""

    start: int
    end: int
    event: Event | None
    text: str


def read_lines(folder: Path, *, start: int, max_bytes: int = 1 << 20) -> Iterator[Line]:
    """Whole lines from byte ``start`` on; a torn last line is left for later."""
    path = folder / EVENTS
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(start)
        position = start
        for raw in file:
            if not raw.endswith(b"\n"):
                return
            end = position + len(raw)
            text = raw.decode(errors="replace").strip()
            yield Line(start=position, end=end, event=_parse(text), text=text)
            position = end
            if end - start >= max_bytes:
                return


def _parse(text: str) -> Event | None:
    try:
        event = json.loads(text)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


@dataclass
class State:
    """What one tracking server has acknowledged."""

    offset: int = 0
    parent: str | None = None  # the server's id of the run; another id means another database
    marks: Marks = field(default_factory=dict)
    attempt: int = 0  # the start of the run that was served last


class StateFile:
    """A State on disk, replaced as a whole."""

    def __init__(self, folder: Path, *, target: str) -> None:
        name = hashlib.sha256(target.encode()).hexdigest()[:8]
        self._path = folder / f"state-{name}.json"

    def load(self) -> State:
        """The stored state, or an empty one where there is none that can be read."""
        try:
            tree = json.loads(self._path.read_text(encoding="utf-8"))
            return State(**{field.name: tree[field.name] for field in fields(State)})
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return State()  # what is sent twice is stored once

    def save(self, state: State) -> None:
        """Replaces the file."""
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
        temporary.replace(self._path)


def reject(folder: Path, *, line: str, reason: str) -> None:
    """Keeps an event that the server refused for good."""
    record = json.dumps({"reason": reason, "event": line})
    with (folder / REJECTED).open("a", encoding="utf-8") as file:
        file.write(record + "\n")
