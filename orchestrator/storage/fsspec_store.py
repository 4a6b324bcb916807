"""Any other place that fsspec can reach: memory://, gs://, az://."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import fsspec

from orchestrator.errors import UserError
from orchestrator.storage.entry import Entry
from orchestrator.storage.errors import NotFoundError, PastEndError
from orchestrator.storage.fsspec_errors import translated
from orchestrator.storage.limit import Limit, bounded
from orchestrator.storage.pieces import Begin
from orchestrator.storage.retry import retrying
from orchestrator.storage.uri import check_key, scheme_of

_TAGS = ("ETag", "etag", "md5Hash", "content_hash", "mtime", "updated", "last_modified", "created")
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
            fsspec.get_filesystem_class(scheme_of(uri))
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
        return self._call("get", key, lambda files, path: files.cat_file(path), limit=limit)

    def get_in_pieces(self, key: str, begin: Begin) -> None:
        """A whole object, in one piece."""
        begin()(self.get(key))

    def local(self, key: str) -> Path | None:
        """Never: objects are elsewhere."""
        return None

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        """A part of an object."""
        if length == 0:
            return b""
        try:
            return self._call(
                "get",
                key,
                lambda files, path: files.cat_file(path, start=start, end=start + length),
                limit=Limit(num_bytes=length),
            )
        except PastEndError:
            return b""  # as a file that is read past its end

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Writes a whole object."""
        self._call(
            "put",
            key,
            lambda files, path: files.pipe_file(path, bytes(data)),
            limit=Limit(num_bytes=len(data)),
        )

    def put_new(self, key: str, data: bytes) -> bool:
        """Exclusive create, as far as the file system has it; always within this process."""

        limit = Limit(num_bytes=2 * len(data))
        tries = 0

        def create(files: Any, path: str) -> None:
            nonlocal tries
            tries += 1
            with _CREATING if scheme_of(self._uri) == "memory" else nullcontext():
                files.pipe_file(path, data, mode="create")

        try:
            self._call("put", key, create, limit=limit)
        except FileExistsError:  # perhaps made by a try whose answer was lost
            return tries > 1 and self._get(key, limit=limit) == data
        return True

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self._call("look for", key, lambda files, path: bool(files.isfile(path)))

    def list(self, prefix: str) -> list[str]:
        """Keys that start with ``prefix``."""
        return [entry.key for entry in self.entries(prefix)]

    def entry(self, key: str) -> Entry:
        """Size of an object, and whatever the file system has for a tag."""
        return self._call("look at", key, lambda files, path: _entry(key, files.info(path)))

    def entries(self, prefix: str) -> Sequence[Entry]:
        """As ``list``, with sizes and tags."""

        def find(files: Any, top: str) -> list[Entry]:
            below = f"{top}/"
            files.invalidate_cache()
            infos: dict[str, dict[str, Any]] = files.find(
                (below + prefix).rpartition("/")[0], detail=True
            )
            found = (_entry(name.removeprefix(below), info) for name, info in infos.items())
            return sorted(
                (one for one in found if one.key.startswith(prefix)), key=lambda entry: entry.key
            )

        check_key(prefix, uri=self._uri)
        return self._call("list", "", find)

    def delete(self, key: str) -> None:
        """Removes an object."""
        if self.exists(key):
            with suppress(NotFoundError):  # another was faster, or a try whose answer was lost
                self._call("delete", key, lambda files, path: files.rm_file(path))

    def delete_prefix(self, prefix: str) -> None:
        """Removes every object below ``prefix``."""
        for key in self.list(prefix):
            self.delete(key)

    def check(self) -> None:
        """Lists the place."""
        self._call("reach", "", lambda files, path: files.exists(path), limit=Limit(_CHECK_S))

    def _call(
        self, verb: str, key: str, call: Callable[[Any, str], Any], *, limit: Limit | None = None
    ) -> Any:
        check_key(key, uri=self._uri)
        where = f"{self._uri}/{key}".rstrip("/")
        limit = limit or Limit()

        def once() -> Any:
            with translated(where):
                files, root = _opened(os.getpid(), self._uri)
                return call(files, f"{root}/{key}".rstrip("/"))

        def bounded_once() -> Any:
            return bounded(once, limit=limit)

        return retrying(bounded_once, what=f"{verb} {where}", limit=limit)


def _entry(key: str, info: Mapping[str, Any]) -> Entry:
    tag = next((info[name] for name in _TAGS if info.get(name) is not None), "")
    # A time may be told in two ways by one file system.
    value = tag.timestamp() if isinstance(tag, datetime) else tag
    return Entry(key=key, size=info["size"], tag=str(value))


@cache
def _opened(_pid: int, uri: str) -> tuple[Any, str]:
    """One file system per process, and the place in it; some must not be used in a forked child."""
    return fsspec.core.url_to_fs(uri)
