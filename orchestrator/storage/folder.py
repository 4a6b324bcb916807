"""A store in a local or mounted folder."""

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from orchestrator.errors import UserError
from orchestrator.storage.direct import LEAST_BYTES, write_direct
from orchestrator.storage.entry import Entry
from orchestrator.storage.errors import NotFoundError, RefusedError, TransientError
from orchestrator.storage.pieces import Begin
from orchestrator.storage.retry import retrying
from orchestrator.storage.uri import check_key

T = TypeVar("T")

_PART = ".part-"  # of a file that is being written
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_PASSING = (errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
_USERS = (errno.EDQUOT, errno.EFBIG, errno.EINVAL, errno.ENAMETOOLONG, errno.ENOSPC, errno.EROFS)


class FolderStore:
    """Files below a folder, each made visible whole by a rename."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def uri(self) -> str:
        """The folder's absolute path."""
        return str(self._root)

    def get(self, key: str) -> bytes:
        """A whole file."""
        path = self._path(key)
        return _call("read", path, path.read_bytes)

    def get_in_pieces(self, key: str, begin: Begin) -> None:
        """A whole object, in one piece."""
        begin()(self.get(key))

    def local(self, key: str) -> Path | None:
        """The file."""
        path = self._path(key)
        return path if path.is_file() else None

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        """A part of a file."""
        path = self._path(key)

        def read() -> bytes:
            with path.open("rb") as file:
                file.seek(start)
                return file.read(length)

        return _call("read", path, read)

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Writes beside the file, syncs and renames over it."""
        path = self._path(key)

        def write() -> None:
            os.replace(_write_part(path, data), path)
            _sync_folder(path.parent)

        _call("write", path, write)

    def put_new(self, key: str, data: bytes) -> bool:
        """As ``put``, but by a hard link, which only one writer can make.

        Where the file system has no hard links the file is created exclusively instead: still one
        winner, but a reader may see a part of it.
        """
        path = self._path(key)
        part = _call("write", path, lambda: _write_part(path, data))
        try:
            is_new = _call("write", path, lambda: _link(part, path))
        finally:
            part.unlink(missing_ok=True)
        if is_new:
            _call("write", path, lambda: _sync_folder(path.parent))
        return is_new

    def exists(self, key: str) -> bool:
        """Whether the file is there."""
        path = self._path(key)
        return _call("look for", path, path.is_file)

    def list(self, prefix: str) -> list[str]:
        """Files whose path below the folder starts with ``prefix``."""
        below = self._path(prefix)
        top = below if prefix.endswith("/") or not prefix else below.parent

        def walk() -> list[str]:
            keys = (
                Path(folder, name).relative_to(self._root).as_posix()
                for folder, _, names in os.walk(top, onerror=_unless_gone)
                for name in names
                if not name.startswith(_PART)
            )
            return sorted(key for key in keys if key.startswith(prefix))

        return _call("list", top, walk)

    def entry(self, key: str) -> Entry:
        """Size of a file, and when it was written."""
        path = self._path(key)
        return _call("look at", path, lambda: _entry(key, path))

    def entries(self, prefix: str) -> Sequence[Entry]:
        """Files as ``list`` has them; one that vanishes meanwhile is left out."""
        found: list[Entry] = []
        for key in self.list(prefix):
            with suppress(NotFoundError):
                found.append(self.entry(key))
        return found

    def delete(self, key: str) -> None:
        """Removes a file."""
        path = self._path(key)
        _call("delete", path, lambda: path.unlink(missing_ok=True))

    def delete_prefix(self, prefix: str) -> None:
        """Removes files, or a whole folder if ``prefix`` ends with a slash."""
        if prefix.endswith("/"):
            path = self._path(prefix)
            _call("delete", path, lambda: shutil.rmtree(path, ignore_errors=not path.exists()))
            return
        for key in self.list(prefix):
            self.delete(key)

    def check(self) -> None:
        """Makes the folder and tries to write into it."""

        def write() -> None:
            self._root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._root):
                pass

        _call("write", self._root, write)

    def _path(self, key: str) -> Path:
        check_key(key, uri=self.uri)
        return self._root / key


def read_of(path: Path, call: Callable[[], T]) -> T:
    """What a call gives that reads a file; it is made again where the file system fails."""
    return _call("read", path, call)


def _entry(key: str, path: Path) -> Entry:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError
    return Entry(key=key, size=found.st_size, tag=str(found.st_mtime_ns))


def _call(verb: str, path: Path, call: Callable[[], T]) -> T:
    def once() -> T:
        with _named(path):
            return call()

    return retrying(once, what=f"{verb} {path}")


def _write_part(path: Path, data: bytes | memoryview) -> Path:
    """The data in a new file beside ``path``, with the user's usual permissions, on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f"{_PART}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        _write_exclusively(part, data)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return part


def _write_exclusively(path: Path, data: bytes | memoryview) -> None:
    if len(data) >= LEAST_BYTES and write_direct(path, data):
        return
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _link(part: Path, path: Path) -> bool:
    """Gives the part its name unless that is taken."""
    try:
        os.link(part, path)
    except FileExistsError:
        # Over NFS the answer to a link that was made can be lost: the count knows.
        return part.stat().st_nlink > 1
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with suppress(FileExistsError):
            _write_exclusively(path, part.read_bytes())
            return True
        return False
    return True


def _unless_gone(error: OSError) -> None:
    """A folder that vanished while it was listed is empty; one that cannot be read is an error."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


@contextmanager
def _named(path: Path) -> Iterator[Path]:
    """Turns the system's errors into one line that names the path."""
    try:
        yield path
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except PermissionError:
        raise RefusedError(f"{path}: permission denied") from None
    except (NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except OSError as error:
        if error.errno in _USERS:
            raise UserError(f"{path}: {error.strerror}") from None
        if error.errno in _PASSING:
            raise TransientError(str(error.strerror)) from None
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
