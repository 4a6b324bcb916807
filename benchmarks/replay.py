"""A real run with failures beside the simulation of it; for elastic.py.

The simulation is told what an undisturbed run of the same recipe took, and of the run itself only
its failures: when they came, how long until they were seen, until ranks were at work again, and
until a node was back. Whatever follows from that is the simulation's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from orchestrator.cascade.goodput_rows import (
    DETECTION,
    RESTART,
    SAVE_BLOCKED,
    START_UP,
    USEFUL,
    Row,
    spent,
)
from orchestrator.plan.simulate import Lived, Work, live, recorded

POINTS = 0.03  # of goodput, between a real run and its simulation


@dataclass(frozen=True)
class Setting:
    """What both runs are told.

    Attributes:
        steps: optimizer steps.
        save_every: steps.
        commit_s: from a save's begin until it counts.
        ranks_per_node: equal on all nodes.
        sizes: ranks that a gang may have. All share the cores of one machine, so a step takes as
            long with any of them.
    """

    steps: int
    save_every: int
    commit_s: float
    ranks_per_node: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Failed:
    """What a run's ledger says of its failures.

    Attributes:
        times_s: when ranks were lost, since the run's start.
        detect_s: from there until it was seen, on average.
        restart_s: from a gang's end to the first step of the next, on average over their ranks.
    """

    times_s: tuple[float, ...]
    detect_s: float
    restart_s: float


@dataclass(frozen=True)
class Beside:
    """Goodput of a real run and of its simulation."""

    name: str
    real: float
    simulated: float

    @property
    def points(self) -> float:
        """By which the simulation is better."""
        return 100 * (self.simulated - self.real)

    @property
    def is_near(self) -> bool:
        """Whether that is little enough."""
        return abs(self.simulated - self.real) <= POINTS


def failures_of(rows: Sequence[Row]) -> Failed:
    """Out of the rows of one stage in one start of its run."""
    gangs = _gangs(rows)
    begins = min(row.start for row in rows)
    lost, detected, restarted, later = list[float](), list[float](), 0.0, 0
    for number, gang in enumerate(gangs):
        restarted += sum(row.seconds.get(RESTART, 0.0) for row in gang)
        later += len(gang) if number else 0
        vain_s = sum(row.seconds.get(DETECTION, 0.0) for row in gang) / len(gang)
        if vain_s:
            detected.append(vain_s)
            lost.append(gang[0].end - begins - vain_s)
    return Failed(
        times_s=tuple(lost),
        detect_s=sum(detected) / len(detected) if detected else 0.0,
        restart_s=restarted / later if later else 0.0,
    )


def _gangs(rows: Sequence[Row]) -> list[list[Row]]:
    """The ranks of each, in the order of their starts."""
    found: dict[float, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.start, row.rank)):
        found.setdefault(row.start, []).append(row)
    return list(found.values())


def work_of(undisturbed: Sequence[Row], *, setting: Setting, failed: Failed, back_s: float) -> Work:
    """What the simulation is told.

    Args:
        undisturbed: rows of a run without failures.
        setting: of both.
        failed: of the run that is simulated.
        back_s: from the loss of a node to its return.
    """
    ranks = len(undisturbed)
    seconds = {name: one / ranks for name, one in spent(undisturbed).seconds.items()}
    step_s = sum(seconds.get(name, 0.0) for name in USEFUL) / setting.steps
    nodes = {ceil(size / setting.ranks_per_node) for size in setting.sizes}
    return Work(
        steps=setting.steps,
        gangs=tuple((one, step_s) for one in sorted(nodes)),
        save_every=setting.save_every,
        save_s=seconds.get(SAVE_BLOCKED, 0.0) / ceil(setting.steps / setting.save_every),
        commit_s=setting.commit_s,
        start_s=seconds.get(START_UP, 0.0),
        restart_s=failed.restart_s,
        detect_s=failed.detect_s,
        replace_s=back_s,
    )


def replay(
    undisturbed: Sequence[Row], disturbed: Sequence[Row], *, setting: Setting, back_s: float
) -> tuple[list[Beside], Lived]:
    """Both runs beside their simulations, and what became of the disturbed one in its own."""
    failed = failures_of(disturbed)
    work = work_of(undisturbed, setting=setting, failed=failed, back_s=back_s)
    lived = live(work, recorded(failed.times_s))
    return [
        Beside("undisturbed", spent(undisturbed).goodput, live(work, recorded([])).goodput),
        Beside("with failures", spent(disturbed).goodput, lived.goodput),
    ], lived
