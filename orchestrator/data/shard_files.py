"""Shards as open files of this machine, wherever they come from."""

from collections.abc import Iterable
from typing import Protocol

from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.files import OpenFile, OpenFiles
from orchestrator.storage.folder import read_of
from orchestrator.storage.store import Store

_MOST_OPEN = 32  # of one source
_MOST_OPEN_OF_ALL = 512  # a process may have some 1,000 in all


def most_open(sources: int) -> int:
    """Shards of one of so many sources that a process keeps open."""
    return max(1, min(_MOST_OPEN, _MOST_OPEN_OF_ALL // sources))


class ShardFiles(Protocol):
    """Where a reader gets shards from; every method may be called by any thread."""

    def open(self, shard: str) -> OpenFile:
        """A shard, to be read in places.

        Raises:
            NotFoundError: if there is none.
            UserError: if it cannot be read, or is not what its hash says.
            UnavailableError: if its store cannot be reached.
        """
        ...

    def forget(self, shard: str, *, seen: OpenFile) -> bool:
        """What was ``seen`` of a shard is damaged: whether to open it, or fetch it, anew."""
        ...

    def fetch_ahead(self, shards: Iterable[str]) -> None:
        """Says which shards will be opened soon, the first of them first."""
        ...

    def close(self) -> None:
        """Keeps none open, and fetches none ahead."""
        ...


class LocalShards:
    """Shards that are files of this machine already, read where they lie."""

    def __init__(self, store: Store, *, sources: int) -> None:
        self._store = store
        self._open = OpenFiles(most=most_open(sources))

    def open(self, shard: str) -> OpenFile:
        """As ``ShardFiles`` says."""
        file = self._open.get(shard)
        if file is None:
            path = self._store.local(shard)
            if path is None:
                raise NotFoundError(f"{self._store.uri}/{shard}: no such file")
            file = read_of(path, lambda: OpenFile(path))
            self._open.put(shard, file)
        return file

    def forget(self, shard: str, *, seen: OpenFile) -> bool:
        """The file may have been replaced since: it is opened by its name again."""
        self._open.drop(seen)
        return True

    def fetch_ahead(self, shards: Iterable[str]) -> None:
        """They are here."""

    def close(self) -> None:
        """As ``ShardFiles`` says."""
        self._open.clear()
