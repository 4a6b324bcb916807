"""Moves events from the spool to a tracking server, in order, each once."""

import logging
from pathlib import Path

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
_TRIES = 8  # of one event, while the server answers other calls

log = logging.getLogger(__name__)


class Pump:
    """One reader of one spool.

    Args:
        folder: the spool.
        sink: where events go.
        state: how far this server has read.
        attempt: the command that this pump works for.
        start: where that command began in the spool. A later command's events are left to the
            pump of that command.
    """

    def __init__(
        self, folder: Path, *, sink: Sink, state: StateFile, attempt: str, start: int
    ) -> None:
        self._folder = folder
        self._sink = sink
        self._file = state
        self._state: State | None = None
        self._attempt = attempt
        self._start = start
        self._failures = 0
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
        try:
            self._send(lines, state=state)
        except NotNowError as error:
            self._failures += 1
            # The second condition narrows a batch to one line before that line is given up.
            if self._failures <= _TRIES or len(lines) > 1 or not self._sink.answers():
                raise
            self._reject(lines[0], reason=f"failed {self._failures} times: {error}")
        self._failures = 0
        state.offset = lines[-1].end
        state.parent = state.parent or self._sink.find_run()
        self._file.save(state)
        return True

    def _open(self) -> State:
        state = self._file.load()
        if state.parent is not None and self._sink.find_run() != state.parent:
            log.info("the tracking store is a new one: sending everything again")
            return State()
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
        return line.start >= self._start and line.event.get("attempt") != self._attempt

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
        if first.get("kind") == "attempt":
            return
        if first.get("kind") != "metrics":
            self._sink.apply(first)
            if first.get("kind") == "stage":  # which may have a new run, with nothing in it
                state.marks.pop(stage_of(first), None)
            return
        marks = copy_marks(state.marks)
        batches: dict[str, list[Point]] = {}
        for line in lines:
            assert line.event is not None
            stage = stage_of(line.event)
            if stage not in marks:
                marks[stage] = self._sink.stored_marks(stage)
            points = unseen(points_of(line.event), marks=marks[stage])
            marks[stage] = raised(marks[stage], points=points)
            batches.setdefault(stage, []).extend(points)
        for stage, points in batches.items():
            if points:
                self._sink.log_points(stage, points)
        state.marks = marks

    def _reject(self, line: Line, *, reason: str) -> None:
        log.warning("skipped an event: %s: %s", reason, line.text[:200])
        reject(self._folder, line=line.text, reason=reason)
