"""When training is not well: pure decisions about numbers that every rank has.

A monitor is fed gradient norms of the whole batch, and means of the loss at logged steps. All ranks
know both already, so they refuse the same steps and go back at the same one.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.recipe.health import Health

STATE = "health.json"  # of a stage: what every later start must know
EVIDENCE = "health.jsonl"  # what a user wants to know

REFUSE = -1.0  # a limit below every norm
SCATTER_POWER = 6  # of the ninth decile over the median: over seven deviations of a log-normal norm
LOSSES = 50  # logged means that make the running level of the loss
LEAST_LOSSES = 10  # before there is one


@dataclass(frozen=True)
class Taken:
    """How one network took a step: the norm of its gradient, its limit, whether it was applied."""

    norm: float
    limit: float
    applied: bool

    @property
    def is_spike(self) -> bool:
        """Whether it was refused for its size alone."""
        return not self.applied and math.isfinite(self.norm) and self.limit != REFUSE


@dataclass(frozen=True)
class Verdict:
    """Training has to go back.

    Attributes:
        reason: what was seen, for the user.
        steps: those whose batches are to be left out, from 0, in order; the weights to go back to
            are from before the first of them.
    """

    reason: str
    steps: tuple[int, ...]


class Monitor:
    """Follows one stage: limits of gradient norms, refused steps, the level of the loss.

    Args:
        health: what the recipe says.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._norms: dict[str, list[float]] = {}  # of applied steps, by network, newest last
        self._refused: list[int] = []  # among the last ``window`` steps
        self._losses: list[float] = []  # logged means that were not high, newest last
        self._edges = [0, 0]  # first step of the logged window before the one of now, and of that
        self._high: list[int] | None = None  # the same, of the first window in a row that is high

    @property
    def is_healthy(self) -> bool:
        """Whether nothing speaks against the weights as they are; refused steps do not."""
        return self._high is None

    def sound_until(self, step: int) -> int:
        """Steps done, at most ``step``, that no verdict from now on goes back beyond."""
        bounds = [step, *self._refused[:1]]
        if self._health.loss_factor is not None:
            bounds.append((self._high or self._edges)[0])
        return min(bounds)

    @property
    def num_refused(self) -> int:
        """Refused steps among the last ``window`` ones."""
        return len(self._refused)

    def limits(self, networks: Sequence[str]) -> dict[str, float]:
        """The largest norm that each network of the next step may have; infinite: any.

        Levels begin anew where other networks take part than in the step before: a discriminator
        that sets in changes the gradient and the loss of what it judges.
        """
        if list(self._norms) != list(networks):
            self._norms = {name: [] for name in networks}
            self._losses, self._high = [], None
        return {name: self._limit(norms) for name, norms in self._norms.items()}

    def _limit(self, norms: Sequence[float]) -> float:
        factor = self._health.spike_factor
        if factor is None or 2 * len(norms) < self._health.window:
            return math.inf
        ordered = sorted(norms)
        level, high = ordered[len(ordered) // 2], ordered[9 * len(ordered) // 10]
        if level == 0.0:
            return math.inf
        return level * max(factor, (high / level) ** SCATTER_POWER)

    def took(self, step: int, networks: Mapping[str, Taken]) -> None:
        """Notes how a step went.

        Args:
            step: from 0.
            networks: all that ``limits`` was asked for.
        """
        window = self._health.window
        for name, one in networks.items():
            if one.applied:
                self._norms[name] = [*self._norms[name], one.norm][-window:]
        if not all(one.applied for one in networks.values()):
            self._refused.append(step)
        self._refused = [one for one in self._refused if one > step - window]

    def logged(self, step: int, *, loss: float) -> None:
        """Notes a logged mean of the loss.

        Args:
            step: steps done.
            loss: over all ranks and the steps since the last one; one that is not finite says
                nothing, for its step was refused.
        """
        edges, self._edges = self._edges, [self._edges[1], step]
        if not math.isfinite(loss):
            return
        if self._is_high(loss):
            self._high = self._high or edges
        else:
            self._losses = [*self._losses, loss][-LOSSES:]
            self._high = None

    def _is_high(self, loss: float) -> bool:
        factor = self._health.loss_factor
        if factor is None or len(self._losses) < LEAST_LOSSES:
            return False
        level = statistics.median(self._losses)
        return level > 0.0 and loss > factor * level

    def verdict(self) -> Verdict | None:
        """Why training has to go back, if it has to."""
        health = self._health
        if len(self._refused) > health.budget:
            return Verdict(
                f"{len(self._refused)} of {health.window} steps were not applied "
                f"(train.health.budget={health.budget})",
                tuple(self._refused),
            )
        done = self._edges[1]
        if self._high is not None and done - self._high[1] >= health.patience:
            # What drove it up may be an update of the window before.
            return Verdict(
                f"the loss has stayed above {health.loss_factor} times its level for "
                f"{done - self._high[1]} steps (train.health.patience={health.patience})",
                tuple(range(self._high[0], done)),
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        """All that it knows, as JSON; there is no world size in it."""
        return {
            "norms": self._norms,
            "refused": self._refused,
            "losses": self._losses,
            "edges": self._edges,
            "high": self._high,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint's."""
        self._norms = {name: list(norms) for name, norms in state["norms"].items()}
        self._refused = list(state["refused"])
        self._losses = list(state["losses"])
        self._edges = list(state["edges"])
        self._high = None if state["high"] is None else list(state["high"])
