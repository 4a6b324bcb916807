"""The rows of goodput.jsonl: what the time of one rank of one gang was spent on."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pydantic import NonNegativeInt, PositiveInt, ValidationError

from models.config import Strict

COMPUTE = "compute"
COMMUNICATION = "communication"
EVALUATION = "evaluation"
COMPILE = "compile"
DATA_WAIT = "data_wait"
SAVE_BLOCKED = "save_blocked"
START_UP = "start_up"
RESTART = "restart"
REPEATED = "repeated"
DETECTION = "detection"
IDLE = "idle"

USEFUL = (COMPUTE, COMMUNICATION, EVALUATION)  # what the recipe asks for
LOST = (COMPILE, DATA_WAIT, SAVE_BLOCKED, START_UP, RESTART, REPEATED, DETECTION, IDLE)
CATEGORIES = USEFUL + LOST


class Row(Strict):
    """One rank of one gang, of one stage in one start of a run.

    The values of ``seconds`` sum to ``end - start``.
    """

    attempt: PositiveInt
    stage: str
    inputs: str  # digest of what the stage is made from: only the same work can be repeated
    gang: str | None  # the token of its beats; null: none was heard
    rank: NonNegativeInt
    node: str | None
    start: float  # unix seconds
    end: float
    seconds: dict[str, float]  # by category
    gap_s: float = 0.0  # by which the rank's own account and the clock disagreed
    first_step: NonNegativeInt | None = None  # steps done when it began to train
    last_step: NonNegativeInt | None = None  # the most that it has done


@dataclass(frozen=True)
class Spent:
    """Rank-seconds by category, of some rows."""

    seconds: Mapping[str, float]

    @property
    def total(self) -> float:
        """All of them."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """The useful part of them, from 0 to 1; 0 for no time at all."""
        return sum(self.share(name) for name in USEFUL)

    def share(self, category: str) -> float:
        """A category's part, from 0 to 1."""
        return self.seconds.get(category, 0.0) / self.total if self.total else 0.0


def spent(rows: Iterable[Row]) -> Spent:
    """What the rows say together; categories in their usual order, those without time left out."""
    sums: dict[str, float] = {}
    for row in rows:
        for name, seconds in row.seconds.items():
            sums[name] = sums.get(name, 0.0) + seconds
    known = [*CATEGORIES, *sorted(set(sums) - set(CATEGORIES))]
    return Spent({name: sums[name] for name in known if sums.get(name)})


def to_lines(rows: Iterable[Row]) -> bytes:
    """Rows as JSON lines."""
    return "".join(f"{row.model_dump_json()}\n" for row in rows).encode()


def from_lines(raw: bytes) -> tuple[list[Row], int]:
    """Rows from JSON lines, and how many lines are damaged and left out."""
    rows: list[Row] = []
    lines = raw.decode(errors="replace").splitlines()
    for line in lines:
        try:
            rows.append(Row.model_validate_json(line))
        except (ValidationError, json.JSONDecodeError):
            continue
    return rows, len(lines) - len(rows)
