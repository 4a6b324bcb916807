"""Any other place that fsspec can reach: memory://, gs://, az://."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec

from orchestrator.errors import UserError
from orchestrator.storage.fsspec_errors import translated
from orchestrator.storage.limit import Limit, bounded
from orchestrator.storage.retry import retrying
from orchestrator.storage.uri import check_key, scheme_of

_CHECK_S = 8.0  # for all tries of a check
_CREATING = threading.Lock()  # memory:// looks and writes in two steps


class FsspecStore:
    """Objects below a URI of a file system that fsspec knows.

    An operation with all its tries is over within 90 s, and a second more for every MiB that is
    known to move (a whole object is not, before it is here); a check within 8 s.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        try:
            self._files, self._root = fsspec.core.url_to_fs(uri)
        except (ValueError, ImportError) as error:
            raise UserError(f"{uri}: {' '.join(str(error).split())}") from None

    @property
    def uri(self) -> str:
        """The place as it was named."""
        return self._uri

    def get(self, key: str) -> bytes:
        """A whole object."""
        return self._get(key, limit=Limit())

    def _get(self, key: str, *, limit: Limit) -> bytes:
        return self._call("get", key, lambda path: self._files.cat_file(path), limit=limit)

    def local(self, key: str) -> Path | None:
        """Never: objects are elsewhere."""
        return None

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        """A part of an object."""
        return self._call(
            "get",
            key,
            lambda path: self._files.cat_file(path, start=start, end=start + length),
            limit=Limit(num_bytes=length),
        )

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Writes a whole object."""
        self._call(
            "put",
            key,
            lambda path: self._files.pipe_file(path, bytes(data)),
            limit=Limit(num_bytes=len(data)),
        )

    def put_new(self, key: str, data: bytes) -> bool:
        """Exclusive create, as far as the file system has it; always within this process."""

        limit = Limit(num_bytes=2 * len(data))
        tries = 0

        def create(path: str) -> None:
            nonlocal tries
            tries += 1
            with _CREATING:
                self._files.pipe_file(path, data, mode="create")

        try:
            self._call("put", key, create, limit=limit)
        except FileExistsError:  # perhaps made by a try whose answer was lost
            return tries > 1 and self._get(key, limit=limit) == data
        return True

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self._call("look for", key, lambda path: bool(self._files.isfile(path)))

    def list(self, prefix: str) -> list[str]:
        """Keys that start with ``prefix``."""
        below = f"{self._root}/"
        folder = (below + prefix).rpartition("/")[0]

        def find(_: str) -> list[str]:
            self._files.invalidate_cache()
            names: list[str] = self._files.find(folder)
            keys = (name.removeprefix(below) for name in names)
            return sorted(key for key in keys if key.startswith(prefix))

        return self._call("list", prefix, find)

    def delete(self, key: str) -> None:
        """Removes an object."""
        if self.exists(key):
            self._call("delete", key, lambda path: self._files.rm_file(path))

    def delete_prefix(self, prefix: str) -> None:
        """Removes every object below ``prefix``."""
        for key in self.list(prefix):
            self.delete(key)

    def check(self) -> None:
        """Lists the place."""
        self._call("reach", "", lambda path: self._files.exists(path), limit=Limit(_CHECK_S))

    def _call(
        self, verb: str, key: str, call: Callable[[str], Any], *, limit: Limit | None = None
    ) -> Any:
        check_key(key, uri=self._uri)
        path = f"{self._root}/{key}".rstrip("/")

        limit = limit or Limit()

        def once() -> Any:
            with translated(f"{scheme_of(self._uri)}://{path.lstrip('/')}"):
                return call(path)

        def bounded_once() -> Any:
            return bounded(once, limit=limit)

        return retrying(bounded_once, what=f"{verb} {self._uri}/{key}", limit=limit)
