"""The one place that tries again."""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from orchestrator.errors import UnavailableError
from orchestrator.storage.errors import TransientError
from orchestrator.storage.limit import Limit

T = TypeVar("T")


def retrying(
    call: Callable[[], T],
    *,
    what: str,
    attempts: int = 20,
    first_wait_s: float = 0.2,
    limit: Limit | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Calls until it succeeds, waiting about twice as long each time, at most ten seconds.

    A store that is down for a minute is outlasted.

    Args:
        call: raises TransientError to be called again; what bounds one call is its own affair
            (``bounded``).
        what: the operation and its URI, for the error.
        attempts: calls at most.
        first_wait_s: longest first wait; waits are drawn evenly from half to all of their bound.
        limit: no new call is made after it; 90 s from now unless given.
        sleep: how to wait.

    Raises:
        UnavailableError: one line with the last cause, when attempts or time are used up.
    """
    limit = limit or Limit()
    wait_s = first_wait_s
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except TransientError as error:
            if attempt == attempts or wait_s > limit.left_s:
                raise UnavailableError(
                    f"{what}: gave up after {attempt} tries in {limit.spent_s:.0f} s: {error}"
                ) from None
        sleep(wait_s * random.uniform(0.5, 1.0))
        wait_s = min(2 * wait_s, 10.0)
    raise AssertionError("attempts is below 1")
