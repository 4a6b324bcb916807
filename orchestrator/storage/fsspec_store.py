"""Any other place that fsspec can reach: memory://, gs://, az://."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from orchestrator.errors import UserError
from orchestrator.storage.entry import Entry
from orchestrator.storage.errors import NotFoundError, TransientError
from orchestrator.storage.retry import retrying
from orchestrator.storage.uri import check_key, scheme_of

T = TypeVar("T")

_TAGS = ("ETag", "etag", "md5Hash", "content_hash", "mtime", "updated", "last_modified", "created")
_CREATING = threading.Lock()  # memory:// looks and writes in two steps


class FsspecStore:
    """Objects below a URI of a file system that fsspec knows."""

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
        return self._call("get", key, lambda path: self._files.cat_file(path))

    def local(self, key: str) -> Path | None:
        """Never: objects are elsewhere."""
        return None

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        """A part of an object."""
        return self._call(
            "get", key, lambda path: self._files.cat_file(path, start=start, end=start + length)
        )

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Writes a whole object."""
        self._call("put", key, lambda path: self._files.pipe_file(path, bytes(data)))

    def put_new(self, key: str, data: bytes) -> bool:
        """Exclusive create, as far as the file system has it; always within this process."""

        def create(path: str) -> bool:
            try:
                with _CREATING:
                    self._files.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            return True

        return self._call("put", key, create)

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        return self._call("look for", key, lambda path: bool(self._files.isfile(path)))

    def list(self, prefix: str) -> list[str]:
        """Keys that start with ``prefix``."""
        return [entry.key for entry in self.entries(prefix)]

    def entry(self, key: str) -> Entry:
        """Size of an object, and whatever the file system has for a tag."""
        return self._call("look at", key, lambda path: _entry(key, self._files.info(path)))

    def entries(self, prefix: str) -> Sequence[Entry]:
        """As ``list``, with sizes and tags."""
        below = f"{self._root}/"
        folder = (below + prefix).rpartition("/")[0]

        def find(_: str) -> list[Entry]:
            self._files.invalidate_cache()
            infos: dict[str, dict[str, Any]] = self._files.find(folder, detail=True)
            found = (_entry(name.removeprefix(below), info) for name, info in infos.items())
            return sorted(
                (one for one in found if one.key.startswith(prefix)), key=lambda entry: entry.key
            )

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
        self._call("reach", "", lambda path: self._files.exists(path))

    def _call(self, verb: str, key: str, call: Callable[[str], Any]) -> Any:
        check_key(key, uri=self._uri)
        path = f"{self._root}/{key}".rstrip("/")

        def once() -> Any:
            with _translated(f"{scheme_of(self._uri)}://{path.lstrip('/')}"):
                return call(path)

        return retrying(once, what=f"{verb} {self._uri}/{key}")


def _entry(key: str, info: Mapping[str, Any]) -> Entry:
    tag = next((info[name] for name in _TAGS if info.get(name) is not None), "")
    # A time may be told in two ways by one file system.
    value = tag.timestamp() if isinstance(tag, datetime) else tag
    return Entry(key=key, size=info["size"], tag=str(value))


@contextmanager
def _translated(where: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise NotFoundError(f"{where}: no such object") from None
    except PermissionError:
        raise UserError(f"{where}: permission denied") from None
    except (OSError, TimeoutError) as error:
        raise TransientError(f"{type(error).__name__}: {error}") from None
