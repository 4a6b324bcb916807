"""A store in a local or mounted folder."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.storage.errors import NotFoundError

_PART = ".part-"  # of a file that is being written


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
        with _named(self._path(key)) as path:
            return path.read_bytes()

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        """A part of a file."""
        with _named(self._path(key)) as path, path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    def put(self, key: str, data: bytes) -> None:
        """Writes beside the file, syncs and renames over it."""
        with _named(self._path(key)) as path:
            part = self._write_part(path, data)
            os.replace(part, path)
            _sync_folder(path.parent)

    def put_new(self, key: str, data: bytes) -> bool:
        """As ``put``, but by a hard link, which only one writer can make."""
        with _named(self._path(key)) as path:
            part = self._write_part(path, data)
            try:
                os.link(part, path)
            except FileExistsError:
                return False
            finally:
                part.unlink()
            _sync_folder(path.parent)
            return True

    def exists(self, key: str) -> bool:
        """Whether the file is there."""
        return self._path(key).is_file()

    def list(self, prefix: str) -> list[str]:
        """Files whose path below the folder starts with ``prefix``."""
        top = (
            self._path(prefix) if prefix.endswith("/") or not prefix else self._path(prefix).parent
        )
        if not top.is_dir():
            return []
        with _named(top):
            keys = (
                Path(folder, name).relative_to(self._root).as_posix()
                for folder, _, names in os.walk(top)
                for name in names
                if not name.startswith(_PART)
            )
            return sorted(key for key in keys if key.startswith(prefix))

    def delete(self, key: str) -> None:
        """Removes a file."""
        with _named(self._path(key)) as path:
            path.unlink(missing_ok=True)

    def delete_prefix(self, prefix: str) -> None:
        """Removes files, or a whole folder if ``prefix`` ends with a slash."""
        if prefix.endswith("/"):
            with _named(self._path(prefix)) as path:
                shutil.rmtree(path, ignore_errors=not path.exists())
            return
        for key in self.list(prefix):
            self.delete(key)

    def check(self) -> None:
        """Makes the folder and tries to write into it."""
        with _named(self._root) as root:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass

    def _path(self, key: str) -> Path:
        path = self._root / key
        if ".." in Path(key).parts or Path(key).is_absolute():
            raise UserError(f"{key}: a key must stay below {self._root}")
        return path

    def _write_part(self, path: Path, data: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_PART, dir=path.parent)
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            part.unlink(missing_ok=True)
            raise
        return part


@contextmanager
def _named(path: Path) -> Iterator[Path]:
    """Turns the system's errors into one line that names the path."""
    try:
        yield path
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except PermissionError:
        raise UserError(f"{path}: permission denied") from None
    except (NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise UserError(f"{path}: {error.strerror}") from None
        raise


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
