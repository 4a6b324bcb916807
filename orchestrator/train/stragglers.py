"""Which rank the others wait for: each one's own time per step, against the middle one's."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

FACTOR = 1.5
WINDOWS = 3  # in a row, before it is said
LEAST_LOST_S = 0.5  # in a window; less is noise, and nobody would look for it


@dataclass
class Stragglers:
    """Watches one stage's windows.

    Args:
        nodes: host name of every rank.
    """

    nodes: Sequence[str]
    _slow: dict[int, int] = field(default_factory=dict[int, int])  # windows in a row, by rank

    def metrics(self, own_s: Sequence[float]) -> dict[str, float]:
        """What is logged of a window.

        Args:
            own_s: own seconds per step, by rank.
        """
        slowest = max(range(len(own_s)), key=lambda rank: own_s[rank])
        return {
            "ranks/slowest": float(slowest),
            "ranks/slowest_step_s": own_s[slowest],
            "ranks/median_step_s": _middle(own_s),
        }

    def notes(self, own_s: Sequence[float], *, steps: int) -> list[str]:
        """A line for each rank that has now been slow for ``WINDOWS`` windows, once per episode.

        Args:
            own_s: own seconds per step, by rank.
            steps: of the window.
        """
        middle = _middle(own_s)
        said: list[str] = []
        for rank, own in enumerate(own_s):
            is_slow = own > FACTOR * middle and (own - middle) * steps >= LEAST_LOST_S
            self._slow[rank] = self._slow.get(rank, 0) + 1 if is_slow else 0
            if self._slow[rank] == WINDOWS:
                said.append(
                    f"rank {rank} on {self.nodes[rank]} is slow: {own:.3g} s of its own per step, "
                    f"the middle rank {middle:.3g} s, in {WINDOWS} windows in a row; "
                    "the others wait for it"
                )
        return said


def _middle(own_s: Sequence[float]) -> float:
    """The median; of an even number the lower one, so that two ranks are compared as well."""
    return statistics.median_low(own_s)
