"""The ledger: every rank-second of every start of a run, by what it was spent on.

A pure function of events in order: a stage's start and end, a gang's start and end, and the beats
of its ranks. What ``train/`` and ``cascade/`` tell by events is enough; nothing here measures.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cascade.goodput_gang import Gang
from orchestrator.cascade.goodput_rows import COMPUTE, EVALUATION, IDLE, RESTART, Row

KINDS = ("stage", "gang", "beat", "end")

_Work = tuple[str, str]  # a stage and the digest of what it is made from


@dataclass
class _Turn:
    """A stage between its start and its end."""

    stage: str
    kind: str
    inputs: str
    ranks: int
    start: float
    gang: Gang | None = None
    tokens: set[str] = field(default_factory=set[str])  # of its gangs that are over


class Goodput:
    """Takes events and gives rows.

    Args:
        attempt: the number of this start of the run.
        earlier: rows of earlier starts: they say how far each stage has come.
    """

    def __init__(self, *, attempt: int, earlier: Iterable[Row] = ()) -> None:
        self._attempt = attempt
        self._reached: dict[_Work, int] = {}
        self._turns: dict[str, _Turn] = {}
        self._closed: list[Row] = []
        for row in earlier:
            self._note_reached((row.stage, row.inputs), step=row.last_step or 0)

    def take(self, event: Mapping[str, Any], *, now: float) -> None:
        """Takes one event; those of other kinds are ignored.

        Args:
            event: may say when it was (``time``, unix seconds).
            now: when it arrived; no event is later than that, whatever a node's clock says.
        """
        time = min(event.get("time", now), now)
        turn = self._turns.get(event.get("stage") or "")
        match event["kind"]:
            case "stage":
                self._turns[event["stage"]] = _turn(event, time=time)
            case "gang" if turn is not None and not _is_whole(turn):
                self._gang(turn, event, time=time)
            case "beat" if turn is not None and not _is_whole(turn):
                if event["gang"] not in turn.tokens:  # else too late
                    self._gang_of(turn, event, time=time).beat(event, time=time)
            case "end" if turn is not None:
                del self._turns[turn.stage]
                self._end(turn, time=time, failed=event["status"] == "FAILED")
            case _:
                pass

    def rows(self, *, now: float) -> list[Row]:
        """All rows of this start; those of stages that still run reach until ``now``."""
        running = [
            row for turn in self._turns.values() for row in self._rows(turn, until=now, tail=None)
        ]
        return [*self._closed, *running]

    def _gang(self, turn: _Turn, event: Mapping[str, Any], *, time: float) -> None:
        if event["what"] == "started":
            self._open(turn, ranks=event["workers"], time=time)
        elif event["what"] == "ending" and turn.gang is not None and turn.gang.end is None:
            turn.gang.finish(time=time, failed=event["failed"])

    def _gang_of(self, turn: _Turn, beat: Mapping[str, Any], *, time: float) -> Gang:
        """The gang that a beat belongs to: one that nobody announced begins with its first beat."""
        if turn.gang is None or turn.gang.token not in (None, beat["gang"]):
            self._open(turn, ranks=beat["ranks"], time=min(beat["started"], time))
        assert turn.gang is not None
        turn.gang.token = beat["gang"]
        return turn.gang

    def _open(self, turn: _Turn, *, ranks: int, time: float) -> None:
        """Begins a gang where the one before has ended, which is now closed."""
        work = (turn.stage, turn.inputs)
        start = turn.start
        if turn.gang is not None:
            if turn.gang.end is None:
                turn.gang.finish(time=time, failed=True)
            assert turn.gang.end is not None
            start = turn.gang.end
            self._close(turn, until=start, tail=RESTART)
            turn.tokens.add(turn.gang.token or "")
        turn.gang = Gang(
            start=start,
            ranks=ranks,
            is_first=work not in self._reached,
            reached=self._reached.get(work, 0),
        )

    def _end(self, turn: _Turn, *, time: float, failed: bool) -> None:
        if turn.gang is not None and turn.gang.end is None and failed:
            turn.gang.finish(time=time, failed=True)
        self._close(turn, until=time, tail=IDLE)

    def _close(self, turn: _Turn, *, until: float, tail: str) -> None:
        self._closed += self._rows(turn, until=until, tail=tail)
        if turn.gang is not None:
            self._note_reached((turn.stage, turn.inputs), step=turn.gang.reached)

    def _note_reached(self, work: _Work, *, step: int) -> None:
        self._reached[work] = max(step, self._reached.get(work, 0))

    def _rows(self, turn: _Turn, *, until: float, tail: str | None) -> list[Row]:
        head = {"attempt": self._attempt, "stage": turn.stage, "inputs": turn.inputs}
        if turn.gang is not None:
            until = max(until, turn.gang.last_heard, turn.gang.end or until)
            return turn.gang.rows(head, until=until, tail=tail)
        if not _is_whole(turn):
            return []  # no worker had a place yet
        name = EVALUATION if turn.kind == "evaluate" else COMPUTE
        until = max(until, turn.start)
        return [
            Row(
                **head,
                gang=None,
                rank=rank,
                node=None,
                start=turn.start,
                end=until,
                seconds={name: until - turn.start},
            )
            for rank in range(turn.ranks)
        ]


def _turn(event: Mapping[str, Any], *, time: float) -> _Turn:
    kind = event["tags"]["kind"]
    ranks = 1 if kind == "evaluate" else max(event["params"]["compute"]["workers"], 1)
    return _Turn(event["stage"], kind, event["tags"]["inputs"], ranks=ranks, start=time)


def _is_whole(turn: _Turn) -> bool:
    """Whether a stage's time is all of one kind, whatever its ranks say."""
    return turn.kind in ("encode", "evaluate")
