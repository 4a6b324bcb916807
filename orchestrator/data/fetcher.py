"""Shards that are fetched before anybody asks for them."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress


class Fetcher:
    """Threads that fetch what is wanted soon, and end when nothing is.

    Args:
        fetch: called with a shard's name, from any of them. What it fails with is dropped: it
            fails again for who cannot do without the shard.
        threads: at most.
    """

    def __init__(self, fetch: Callable[[str], None], *, threads: int) -> None:
        self._fetch = fetch
        self._threads = threads
        self._lock = threading.Lock()
        self._wanted: deque[str] = deque()
        self._running: set[str] = set()

    def want(self, shards: Iterable[str]) -> None:
        """These, the first of them first; what was wanted before and is not begun is forgotten."""
        with self._lock:
            wanted = deque(one for one in dict.fromkeys(shards) if one not in self._running)
            idle = min(len(wanted), self._threads - len(self._running))
            begun = [wanted.popleft() for _ in range(idle)]
            self._running.update(begun)
            self._wanted = wanted
        for shard in begun:
            threading.Thread(target=self._run, args=(shard,), name="fetch", daemon=True).start()

    def _run(self, shard: str) -> None:
        more: str | None = shard
        while more is not None:
            with suppress(Exception):  # a thread's edge: one that died would be missed for good
                self._fetch(more)
            more = self._next(more)

    def _next(self, done: str) -> str | None:
        with self._lock:
            self._running.discard(done)
            more = self._wanted.popleft() if self._wanted else None
            if more is not None:
                self._running.add(more)
            return more
