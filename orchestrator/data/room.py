"""Room in a folder that the processes of a node share: locks, and who gives way."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from orchestrator.storage.local import writing

_LOCK = ".lock"
_PART = ".part"
_WAIT_S = 0.05


@contextmanager
def locked(path: Path, *, field: str) -> Iterator[None]:
    """Nobody else of this node, process or thread, is in here for the same path."""
    with _opened(path, field=field) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_room(root: Path, path: Path, *, size: int, budget_bytes: int, field: str) -> Path:
    """A file of so many zeros beside ``path``, to be filled and renamed: it takes up the room.

    Tar files two levels below ``root`` and those that are being written never take up more than
    the budget together, or than this one by itself; the ones that were used longest ago give way.
    The caller has the path ``locked``. Others who write may have to end first.

    Args:
        root: of the folder.
        path: of the tar file that needs room.
        size: bytes of it.
        budget_bytes: of all.
        field: what decides where the folder is.
    """
    part = path.with_suffix(_PART)
    while True:
        with locked(root / "room", field=field):
            part.unlink(missing_ok=True)
            written = _written(root, field=field)
            if not written or written + size <= budget_bytes:
                _evict(root, down_to=budget_bytes - written - size)
                with writing(part, field=field), part.open("wb") as file:
                    file.truncate(size)
                return part
        time.sleep(_WAIT_S)  # others hold the room until what they write is whole


def _evict(root: Path, *, down_to: int) -> None:
    files: list[tuple[float, int, Path]] = []
    for path in root.glob("*/*.tar"):
        with suppress(FileNotFoundError):
            stat = path.stat()
            files.append((stat.st_mtime, stat.st_size, path))
    used = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if used <= down_to:
            return
        path.unlink(missing_ok=True)
        used -= size


def _written(root: Path, *, field: str) -> int:
    """Bytes that others are writing; parts that the dead have left are removed."""
    total = 0
    for part in root.glob(f"*/*{_PART}"):
        with suppress(FileNotFoundError):
            size = part.stat().st_size
            with _opened(part.with_suffix(".tar"), field=field) as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    total += size
                else:
                    part.unlink()
    return total


def _opened(path: Path, *, field: str) -> IO[str]:
    """The lock of a path: a lock holds for an opening of its file, so also between threads."""
    lock = path.with_name(f"{path.name}{_LOCK}")
    with writing(lock, field=field):
        return lock.open("w")
