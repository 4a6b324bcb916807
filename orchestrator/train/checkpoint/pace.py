"""When the next checkpoint is due."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.plan.interval import choose_every_steps, mean_time_between_failures_s
from orchestrator.recipe.train import Save
from orchestrator.train.checkpoint.save import Saver
from orchestrator.train.exchange import gather_json
from orchestrator.train.ranks import Ranks

SAVES = 5  # the last ones, that costs are taken from
DISTURBED = 1.02  # times an undisturbed step: beyond that the writer of a save rests now and then
STEPS = 50  # the last undisturbed ones, that a step's time is taken from


class Pace:
    """Counts steps to the next save; ``auto`` sets how many, by what it measures.

    The ranks agree without an exchange at every step: rank 0 says what it has chosen when a
    checkpoint is committed, which is at the same step everywhere. Under ``auto`` the first save is
    at the first logged step, so that there is something to choose by, and none is begun while the
    last one is being written.

    Args:
        save: the recipe's rule.
        log_every: steps between logged ones.
        ranks: this process and its peers.
        saver: whose saves they are.
        clock: seconds since some moment.
    """

    def __init__(
        self,
        save: Save,
        *,
        log_every: int,
        ranks: Ranks,
        saver: Saver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._save = save
        self._ranks = ranks
        self._saver = saver
        self._clock = clock
        self._every_steps = log_every if save.every_steps == "auto" else save.every_steps
        self._saved_at = 0
        self._costs_s: deque[float] = deque(maxlen=SAVES)
        self._writes_s: deque[float] = deque(maxlen=SAVES)
        self._plain_s: deque[float] = deque(maxlen=STEPS)
        self._disturbed_s: list[float] = []  # steps since the last save began
        self._step_began_s: float | None = None
        self._step_blocked_s = 0.0  # before it began
        self._blocked_before_s = 0.0
        self._blocked_s = 0.0  # by the last save of this gang
        self._failures = self._gangs = 0
        self._began_s, self._trained_s = clock(), 0.0

    def resume(
        self, state: Mapping[str, Any] | None, *, step: int, gangs: int, has_begun: bool
    ) -> None:
        """Takes up what earlier gangs have measured.

        Args:
            state: of the checkpoint; None if it has none.
            step: steps done.
            gangs: how many have trained the stage, with this one; only rank 0's is looked at.
            has_begun: whether there is a checkpoint.
        """
        self._saved_at, self._gangs = step, gangs
        self._began_s = self._clock()
        if state is None:
            self._failures = 0 if has_begun else max(0, gangs - 1)
            return
        unasked = gangs - state["gangs"] - int(state["stopped"])
        self._failures = state["failures"] + max(0, unasked)
        self._trained_s = state["trained_s"]
        self._costs_s.extend(state["costs_s"])
        self._writes_s.extend(state["writes_s"])
        if self._save.every_steps == "auto":
            self._every_steps = state["every_steps"]

    def went_back(self, step: int) -> None:
        """To be called when training goes back to the checkpoint of a step."""
        self._saved_at, self._step_began_s = step, None

    def state_dict(self, *, stopped: bool) -> dict[str, Any]:
        """For the checkpoint; rank 0's is the one to keep.

        Args:
            stopped: the gang ends with this checkpoint because it was asked to.
        """
        return {
            "every_steps": self._every_steps,
            "costs_s": list(self._costs_s),
            "writes_s": list(self._writes_s),
            "trained_s": self._trained_s + self._clock() - self._began_s,
            "failures": self._failures,
            "gangs": self._gangs,
            "stopped": stopped,
        }

    def step_begins(self) -> None:
        """To be called before every step."""
        self._step_began_s, self._step_blocked_s = self._clock(), self._saver.blocked_s

    def step_ended(self) -> None:
        """To be called after every step, before anything else is done."""
        if self._step_began_s is None:  # the first one, which starts and compiles
            return
        took_s = self._clock() - self._step_began_s
        took_s -= self._saver.blocked_s - self._step_blocked_s  # is counted by itself
        if not self._saver.is_under_way:
            self._plain_s.append(took_s)
            return
        self._disturbed_s.append(took_s)
        if self._plain_s:
            usual_s = statistics.median(self._plain_s)
            self._saver.rests = statistics.fmean(self._disturbed_s) > DISTURBED * usual_s

    def is_due(self, step: int) -> bool:
        """Whether to save after a step; the same on every rank."""
        kept = self._save.keep_every_steps
        if kept is not None and step % kept == 0:
            return True
        if self._save.every_steps != "auto":
            return step % self._save.every_steps == 0
        return step >= self._saved_at + self._every_steps and not self._saver.is_under_way

    def begins_save(self, step: int) -> None:
        """To be called right before ``Saver.begin``."""
        self._saved_at = step
        self._blocked_before_s = self._saver.blocked_s
        self._disturbed_s = []

    def committed(self) -> None:
        """To be called when a checkpoint was committed; collective."""
        self._blocked_s = self._saver.blocked_s - self._blocked_before_s
        self._costs_s.append(self._blocked_s + self._slowed_s())
        self._writes_s.append(self._saver.last_write_s)
        if self._save.every_steps == "auto":
            chosen = self._choose()
            self._every_steps = gather_json(chosen, device=self._ranks.device)[0]

    def metrics(self) -> dict[str, float]:
        """What is logged with the stage's own."""
        # Both from the first step on: repeated steps log what they have logged before.
        return {"save/every_steps": float(self._every_steps), "save/blocked_s": self._blocked_s}

    def _slowed_s(self) -> float:
        """What steps took longer while the last checkpoint was written."""
        if not self._plain_s:
            return 0.0
        usual_s = statistics.median(self._plain_s)
        return max(0.0, sum(self._disturbed_s) - len(self._disturbed_s) * usual_s)

    def _choose(self) -> int:
        steps_s = self._plain_s or self._disturbed_s
        if not steps_s:
            return self._every_steps
        return choose_every_steps(
            cost_s=statistics.median(self._costs_s),
            write_s=max(self._writes_s),
            mtbf_s=mean_time_between_failures_s(
                failures=self._failures,
                trained_s=self._trained_s + self._clock() - self._began_s,
                ranks=self._ranks.world_size,
            ),
            step_s=statistics.median(steps_s),
        )
