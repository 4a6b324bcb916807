"""Work on many shards at once, by threads: hashing, decoding and stores let others run."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
S = TypeVar("S")

_THREADS = 8  # at most, each with a shard in memory


class Tally:
    """A count that threads add to, and who is told of it."""

    def __init__(self, total: int, *, tell: Callable[[int, int], None]) -> None:
        self._done = 0
        self._total = total
        self._tell = tell
        self._lock = threading.Lock()
        tell(0, total)

    def add(self, count: int) -> None:
        """So many more are done."""
        with self._lock:
            self._done += count
            self._tell(self._done, self._total)


def in_threads(call: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """Results in the order of the items; after a failure no further call begins."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "shard") as pool:
        return list(pool.map(call, items))
