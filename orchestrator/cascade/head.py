"""The head of the cluster that this process has joined: whether it answers, what if it does not.

Calls to a head that is gone do not return: after a minute, Ray's client ends the whole process with
1. So a driver looks for itself, before it calls and now and then.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ray.exceptions import RayError

from orchestrator.cascade.explain import AGAIN, one_line
from orchestrator.errors import UnavailableError

LIMIT_S = 30.0
_EVERY_S = 5.0
_PAUSE_S = 1.0
_CONNECT_S = 2.0


class Head:
    """The process that knows all nodes (Ray's GCS).

    Args:
        address: its HOST:PORT.
        limit_s: how long it may be silent.
        clock: seconds.
    """

    def __init__(
        self,
        address: str,
        *,
        limit_s: float = LIMIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = address
        self._limit_s = limit_s
        self._clock = clock
        self._next_s = clock() + _EVERY_S

    def reach(self) -> None:
        """Returns as soon as it takes a connection.

        Raises:
            UnavailableError: if it takes none in time.
        """
        deadline_s = self._clock() + self._limit_s
        while not _takes_connections(self._address):
            if self._clock() >= deadline_s:
                raise UnavailableError(
                    f"lost Ray: nobody has answered at {self._address} for {self._limit_s:g} s; "
                    f"{AGAIN}"
                )
            time.sleep(_PAUSE_S)

    def check(self) -> bool:
        """Looks now and then whether it is there, however often this is called; says if it did."""
        if self._clock() < self._next_s:
            return False
        self.reach()
        self._next_s = self._clock() + _EVERY_S
        return True


def _takes_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S):
            return True
    except OSError:
        return False


@contextmanager
def reaching_ray() -> Iterator[None]:
    """Turns what Ray raises in the driver's own calls into the end of this start.

    These are calls to actors of ours and to the head; a stage's failures are told by ``explain``.
    """
    try:
        yield
    except (RayError, ConnectionError) as error:
        raise UnavailableError(f"lost Ray: {one_line(error)}; {AGAIN}") from None
