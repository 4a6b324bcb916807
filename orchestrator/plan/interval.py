"""How often to save, from what a save costs and how often gangs fail. Arithmetic alone."""

import math

PRIOR_RANK_HOURS = 8_000.0
"""Hours of one rank between failures, assumed of every run until it fails more often.

Source: Kokolis et al. 2024, arXiv:2410.21680: 7.9 h at 1024 GPUs. (Llama 3, arXiv:2407.21783: 419
interruptions of 16384 GPUs in 54 days, 50,000 h; spot machines are worse than either.)
"""
LEAST_TRAINED_S = 3600.0  # what a failure counts as having come after, at least
LONGEST_S = 1800.0  # between saves, whatever the arithmetic says: some losses are nobody's failure


def mean_time_between_failures_s(*, failures: int, trained_s: float, ranks: int) -> float:
    """Seconds between failures of a gang: what was seen, but no better than the prior.

    Args:
        failures: gangs of this stage that ended without being asked to.
        trained_s: how long its gangs have trained.
        ranks: of the gang; any of them ends all.
    """
    prior_s = PRIOR_RANK_HOURS * 3600.0 / ranks
    if not failures:
        return prior_s
    return min(prior_s, (trained_s + LEAST_TRAINED_S) / failures)


def daly_interval_s(*, cost_s: float, mtbf_s: float) -> float:
    """Seconds of training between two saves that lose the least time to saves and failures.

    How long a restart takes changes what is lost, not the best interval; nor does the time that a
    checkpoint is written beside training, for which every failure repeats as much more.

    Args:
        cost_s: training time that a save takes away.
        mtbf_s: mean time between failures.

    Source: Daly 2006, doi:10.1016/j.future.2004.11.016, equation 37. To first order it is
    sqrt(2 cost mtbf), Young 1974, doi:10.1145/361147.361115.
    """
    if cost_s >= 2.0 * mtbf_s:
        return mtbf_s
    share = cost_s / (2.0 * mtbf_s)
    young_s = math.sqrt(2.0 * cost_s * mtbf_s)
    return young_s * (1.0 + math.sqrt(share) / 3.0 + share / 9.0) - cost_s


def choose_every_steps(*, cost_s: float, write_s: float, mtbf_s: float, step_s: float) -> int:
    """Optimizer steps between saves: Daly's interval, long enough that no save waits for the last.

    Args:
        cost_s: training time that a save takes away.
        write_s: from a save's begin to its commit.
        mtbf_s: mean time between failures.
        step_s: of one step.
    """
    best_s = min(daly_interval_s(cost_s=cost_s, mtbf_s=mtbf_s), LONGEST_S)
    return max(1, round(best_s / step_s), math.ceil(write_s / step_s))
