"""What some simulated runs of a stage say together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isinf, sqrt

import numpy as np

from orchestrator.plan.simulate import Lived


@dataclass(frozen=True)
class Expected:
    """What some runs say together.

    Attributes:
        goodput: of all their time.
        low: of a run that is worse than 95 of 100.
        high: of one that is better than 95 of 100.
        seconds: from start to end, on average; infinite if one of them never ends.
        node_s: that nodes are held, on average.
        failures: on average.
        nodes: of the largest gang.
    """

    goodput: float
    low: float
    high: float
    seconds: float
    node_s: float
    failures: float
    nodes: int

    def gpu_s(self, ranks: int) -> float:
        """Seconds that GPUs are held, if all nodes together have so many."""
        return self.node_s * ranks / self.nodes

    def longer(self, times: float) -> "Expected":
        """The same of a stage that is so many times as long: it goes on as it began.

        The longer a run, the nearer to the average: so many times as long, so far apart as the
        root of it.
        """
        narrow = sqrt(times)
        return replace(
            self,
            low=self.goodput - (self.goodput - self.low) / narrow,
            high=self.goodput + (self.high - self.goodput) / narrow,
            seconds=self.seconds * times,
            node_s=self.node_s * times,
            failures=self.failures * times,
        )

    @property
    def ends(self) -> bool:
        """Whether all of them came to their end."""
        return not isinf(self.seconds)


def together(runs: Sequence[Lived], *, nodes: int) -> Expected:
    """Their averages."""
    shares = [run.goodput for run in runs]
    low, high = np.percentile(shares, (5, 95))
    return Expected(
        goodput=sum(run.useful_s for run in runs) / sum(run.node_s for run in runs),
        low=float(low),
        high=float(high),
        seconds=sum(run.seconds for run in runs) / len(runs),
        node_s=sum(run.node_s for run in runs) / len(runs),
        failures=sum(run.failures for run in runs) / len(runs),
        nodes=nodes,
    )
