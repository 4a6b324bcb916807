"""A pace whose saver and clock do as the test says, and what ranks of a gang do with it."""

from dataclasses import dataclass
from typing import Any

from orchestrator.recipe.train import Save
from orchestrator.train.checkpoint.pace import Pace
from orchestrator.train.ranks import Ranks

LOG_EVERY = 10
AUTO = Save(every_steps="auto")


@dataclass
class Saves:
    """What a pace asks of its saver."""

    is_under_way: bool = False
    blocked_s: float = 0.0
    last_write_s: float = 0.0
    rests: bool = False


class Steps:
    """Steps of a stage, saved as the pace says."""

    def __init__(
        self,
        ranks: Ranks,
        *,
        step_s: float,
        blocked_s: float,
        write_steps: int = 4,
        slower: float = 1.0,
        save: Save = AUTO,
    ) -> None:
        self.now_s = 0.0
        self.saves = Saves()
        self.saved_at: list[int] = []
        self.step = 0
        self._step_s, self._blocked_s, self._slower = step_s, blocked_s, slower
        self._write_steps = write_steps
        saver: Any = self.saves
        self.pace = Pace(
            save, log_every=LOG_EVERY, ranks=ranks, saver=saver, clock=lambda: self.now_s
        )

    def resume(self, state: dict[str, Any] | None, *, step: int, gangs: int) -> None:
        """Goes on from a checkpoint."""
        self.step = step
        self.pace.resume(state, step=step, gangs=gangs, has_begun=step > 0)

    def run(self, *, until: int) -> None:
        """Trains as the worker does."""
        while self.step < until:
            self.step += 1
            self.now_s += self._step_s * (self._slower if self.saves.is_under_way else 1.0)
            self.pace.step_ended()
            if self.pace.is_due(self.step):
                self._begin()
            elif self.saves.is_under_way and self.step >= self.saved_at[-1] + self._write_steps:
                self.saves.is_under_way = False
                self.saves.last_write_s = self._write_steps * self._step_s
                self.pace.committed()
            self.pace.step_begins()

    def _begin(self) -> None:
        self.pace.begins_save(self.step)
        self.saved_at.append(self.step)
        self.now_s += self._blocked_s
        self.saves.blocked_s += self._blocked_s
        self.saves.is_under_way = True


def save_at_each_ranks_own_cost(ranks: Ranks) -> list[int]:
    """Where a rank saves whose saves block it the longer the higher its number."""
    steps = Steps(ranks, step_s=1.0 + ranks.rank, blocked_s=0.01 + 5.0 * ranks.rank)
    steps.resume(None, step=0, gangs=4 if ranks.rank == 0 else 0)
    steps.run(until=1000)
    return steps.saved_at
