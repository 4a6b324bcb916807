"""Moves events from the spool to a tracking server, in order, each once."""

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from orchestrator.tracking.fetch import logged
from orchestrator.tracking.sink import (
    NotNowError,
    Point,
    RejectedError,
    Sink,
    copy_marks,
    points_of,
    raised,
    stage_of,
    unseen,
)
from orchestrator.tracking.spool import Line, State, StateFile, read_lines, reject

_BATCH_POINTS = 1000
_TRIES = 8  # of one event, at least, while the server answers other calls
_GIVE_UP_S = 600.0  # of them, at least: what keeps artifacts may be away while the server is not

log = logging.getLogger(__name__)


class Pump:
    """One reader of one spool.

    Args:
        folder: the spool.
        sink: where events go.
        state: how far this server has read.
        attempt: number of the start of the run that this pump works for.
        newest_attempt: tells the newest one's. With a newer one, here or on another machine, this
            pump sends nothing more: the newer one logs the steps that both have trained.
        command: that start's mark in the spool.
        start: where it began in the spool. A later command's events are left to the pump of that
            command.
    """

    def __init__(
        self,
        folder: Path,
        *,
        sink: Sink,
        state: StateFile,
        attempt: int,
        newest_attempt: Callable[[], int],
        command: str,
        start: int,
    ) -> None:
        self._folder = folder
        self._sink = sink
        self._file = state
        self._state: State | None = None
        self._attempt = attempt
        self._newest_attempt = newest_attempt
        self._command = command
        self._start = start
        self._failures = 0
        self._failing_since_s: float | None = None
        self.superseded = False

    def advance(self) -> bool:
        """Sends the next batch.

        Returns:
            False if there was nothing to send.

        Raises:
            NotNowError: if it could not be sent now; the next call tries the same again.
        """
        state = self._state = self._state or self._open()
        lines = self._next_lines(state.offset, single=self._failures >= _TRIES)
        if not lines:
            return False
        if self._newest_attempt() > self._attempt:
            self.superseded = True
            return False
        try:
            self._send(lines, state=state)
        except NotNowError as error:
            self._failures += 1
            self._failing_since_s = self._failing_since_s or time.monotonic()
            has_tries = self._failures <= _TRIES
            has_time = time.monotonic() - self._failing_since_s < _GIVE_UP_S
            # The third condition narrows a batch to one line before that line is given up.
            if has_tries or has_time or len(lines) > 1 or not self._sink.answers():
                raise
            self._reject(lines[0], reason=f"failed {self._failures} times: {error}")
        self._failures, self._failing_since_s = 0, None
        state.offset = lines[-1].end
        state.parent = state.parent or self._sink.find_run()
        self._file.save(state)
        return True

    def _open(self) -> State:
        state = self._file.load()
        if state.parent is not None and self._sink.find_run() != state.parent:
            log.info("the tracking store is a new one: sending everything again")
            return State(attempt=self._attempt)
        if state.attempt not in (self._attempt, self._attempt - 1):
            state.marks = {}  # a start elsewhere may have sent more: they are asked for again
        state.attempt = self._attempt
        return state

    def _next_lines(self, offset: int, *, single: bool) -> list[Line]:
        """Metrics in a row up to a full request, or one line of another kind."""
        lines: list[Line] = []
        num_points = 0
        for line in read_lines(self._folder, start=offset):
            kind = line.event.get("kind") if line.event is not None else None
            if kind == "attempt" and self._belongs_to_later(line):
                self.superseded = True
                return lines
            if kind != "metrics":
                return lines or [line]
            values = line.event.get("values") if line.event is not None else None
            num_points += len(values) + 1 if isinstance(values, dict) else 1
            if lines and num_points > _BATCH_POINTS:
                return lines
            lines.append(line)
            if single:
                return lines
        return lines

    def _belongs_to_later(self, line: Line) -> bool:
        assert line.event is not None
        return line.start >= self._start and line.event.get("attempt") != self._command

    def _send(self, lines: list[Line], *, state: State) -> None:
        try:
            self._send_together(lines, state=state)
        except RejectedError as error:
            if len(lines) == 1:
                self._reject(lines[0], reason=str(error))
                return
            for line in lines:
                self._send([line], state=state)

    def _send_together(self, lines: list[Line], *, state: State) -> None:
        first = lines[0].event
        if first is None:
            raise RejectedError("not a JSON object (a write that was cut off)")
        match first.get("kind"):
            case "attempt":
                pass
            case "metrics":
                events = [line.event for line in lines if line.event is not None]
                self._log([(stage_of(event), points_of(event)) for event in events], state=state)
            case "history":
                self._log([(stage_of(first), logged(first["uri"]))], state=state)
            case kind:
                self._sink.apply(first)
                if kind == "stage":  # which may have a new run, with nothing in it
                    state.marks.pop(stage_of(first), None)

    def _log(self, found: Iterable[tuple[str, list[Point]]], *, state: State) -> None:
        """Sends the points, by stage, that are past the highest stored step of their metric."""
        marks = copy_marks(state.marks)
        batches: dict[str, list[Point]] = {}
        for stage, points in found:
            if stage not in marks:
                marks[stage] = self._sink.stored_marks(stage)
            new = unseen(points, marks=marks[stage])
            marks[stage] = raised(marks[stage], points=new)
            batches.setdefault(stage, []).extend(new)
        for stage, points in batches.items():
            for first in range(0, len(points), _BATCH_POINTS):
                self._sink.log_points(stage, points[first : first + _BATCH_POINTS])
        state.marks = marks

    def _reject(self, line: Line, *, reason: str) -> None:
        log.warning("skipped an event: %s: %s", reason, line.text[:200])
        reject(self._folder, line=line.text, reason=reason)
