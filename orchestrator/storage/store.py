"""One small interface to a folder or a bucket."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from orchestrator.storage.entry import Entry
from orchestrator.storage.pieces import Begin
from orchestrator.storage.uri import FILE_SCHEMES, join_uri, local_path, resolve, scheme_of

__all__ = ["Begin", "Entry", "Store", "join_uri", "open_store", "resolve"]


class Store(Protocol):
    """Objects below one place, by key (``a/b/c``).

    Every call retries what may pass and then raises UnavailableError; NotFoundError names a
    missing object; UserError says what is not permitted or does not fit.
    """

    @property
    def uri(self) -> str:
        """The absolute name of the place."""
        ...

    def get(self, key: str) -> bytes:
        """A whole object."""
        ...

    def get_in_pieces(self, key: str, begin: Begin) -> None:
        """A whole object, piece by piece: ``begin`` is called for every try and takes them."""
        ...

    def local(self, key: str) -> Path | None:
        """An object that is a file of this machine, to be read where it lies; else None."""
        ...

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        """``length`` bytes of an object from ``start`` on."""
        ...

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Writes a whole object; readers see the old one or the new one, never a part."""
        ...

    def put_new(self, key: str, data: bytes) -> bool:
        """Writes an object unless one is there; False if there was. One winner among many."""
        ...

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        ...

    def list(self, prefix: str) -> list[str]:
        """Keys that start with ``prefix``, sorted."""
        ...

    def entry(self, key: str) -> Entry:
        """Size and tag of an object."""
        ...

    def entries(self, prefix: str) -> Sequence[Entry]:
        """As ``list``, with sizes and tags."""
        ...

    def delete(self, key: str) -> None:
        """Removes an object; nothing happens if it is not there."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Removes every object whose key starts with ``prefix``."""
        ...

    def check(self) -> None:
        """Raises UnavailableError or UserError unless the place can be reached, within seconds."""
        ...


def open_store(uri: str) -> Store:
    """The store at a folder path, file://, s3://, memory:// or another fsspec URI.

    Nothing is contacted yet.
    """
    scheme = scheme_of(uri)
    if scheme in FILE_SCHEMES:
        from orchestrator.storage.folder import FolderStore

        return FolderStore(local_path(uri))
    if scheme == "s3":
        from orchestrator.storage.s3 import S3Store

        return S3Store(resolve(uri))
    from orchestrator.storage.fsspec_store import FsspecStore

    return FsspecStore(resolve(uri))
