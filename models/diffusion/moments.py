"""The times of a sampler's grid with their shares, and what two of them say about a step.

Nothing here touches a tensor: a grid has one time for all clips.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Moment:
    """One time of the grid with its signal and noise shares."""

    t: float
    alpha: float
    sigma: float


def forward_variance(here: Moment, there: Moment) -> float:
    """Variance that noising adds from ``there`` (earlier time) to ``here``."""
    return here.sigma**2 - (here.alpha / there.alpha * there.sigma) ** 2


def posterior_variance(here: Moment, there: Moment) -> float:
    """Variance of x at ``there``, given x at ``here`` and the clean clip."""
    return (there.sigma / here.sigma) ** 2 * forward_variance(here, there)


def power(at: Moment) -> float:
    """Variance of x_t for white data of variance 1."""
    return at.alpha**2 + at.sigma**2


def log_snr_step(here: Moment, there: Moment) -> float:
    """Growth of log(alpha/sigma) over the step; infinite from no signal or to no noise."""
    if here.alpha == 0.0 or there.sigma == 0.0:
        return math.inf
    return math.log(there.alpha * here.sigma / (there.sigma * here.alpha))
