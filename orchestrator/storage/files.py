"""Files of this machine that are read in places, by descriptors that stay open."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from orchestrator.storage.folder import read_of

T = TypeVar("T")

Buffer = bytearray | memoryview


class OpenFile:
    """A file that is open for reading, by any thread; closed once nobody holds it any more.

    So no descriptor is closed, and its number given to another file, under a thread that reads.
    A file that was deleted or replaced since is read as it was.

    Attributes:
        size: bytes of it when it was opened.
        touched_s: for who keeps it: when it was last said to be in use.
    """

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError, or OSError, if it cannot be opened."""
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size
        self.touched_s = 0.0

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            os.close(self._fd)

    def read_into(self, buffers: Sequence[Buffer], *, offset: int, size: int) -> int:
        """Fills buffers, of so many bytes together, one after the other from there on.

        Returns:
            Bytes that were read: fewer only where the file ends.

        Raises:
            UnavailableError: if the file system fails for longer than it is tried again.
        """
        done = self._once(buffers, offset)
        while done < size:  # the end of the file, or a call that was cut short
            more = self._once(_behind(buffers, done), offset + done)
            if not more:
                break
            done += more
        return done

    def read(self, size: int, *, offset: int) -> bytes:
        """So many bytes from there on, fewer only where the file ends; raises as ``read_into``."""
        try:
            data = os.pread(self._fd, size, offset)
        except OSError:
            data = self._again(lambda: os.pread(self._fd, size, offset))
        if len(data) == size or not data:
            return data
        return data + self.read(size - len(data), offset=offset + len(data))

    def touch(self) -> None:
        """Says that the file is in use, by its time; another user's may not be told."""
        with suppress(PermissionError):
            os.utime(self._fd)

    def is_at(self, path: Path) -> bool:
        """Whether this is what a path names now."""
        try:
            return os.path.samestat(os.fstat(self._fd), path.stat())
        except FileNotFoundError:
            return False

    def is_deleted(self) -> bool:
        """Whether no path names it any more: its space is free once it is closed."""
        return os.fstat(self._fd).st_nlink == 0

    def _once(self, buffers: Sequence[Buffer], offset: int) -> int:
        try:
            return os.preadv(self._fd, buffers, offset)
        except OSError:
            return self._again(lambda: os.preadv(self._fd, buffers, offset))

    def _again(self, call: Callable[[], T]) -> T:
        """Calls with the file opened anew: a handle that is stale on a network stays so."""

        def once() -> T:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.dup2(fd, self._fd, inheritable=False)  # the same number, at once for all threads
            finally:
                os.close(fd)
            return call()

        return read_of(self._path, once)


class OpenFiles:
    """The files that were used last, by name, for any thread."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def get(self, name: str) -> OpenFile | None:
        """The file of that name, if it is one of them."""
        with self._lock:
            file = self._files.get(name)
            if file is not None:
                self._files.move_to_end(name)
            return file

    def put(self, name: str, file: OpenFile) -> None:
        """Keeps a file; the one that was used longest ago makes room for it."""
        with self._lock:
            self._files[name] = file
            self._files.move_to_end(name)
            if len(self._files) > self._most:
                self._files.popitem(last=False)

    def drop(self, file: OpenFile) -> None:
        """Keeps a file no longer, if it is one of them."""
        with self._lock:
            for name, kept in list(self._files.items()):
                if kept is file:
                    del self._files[name]

    def clear(self) -> None:
        """Keeps none any longer."""
        with self._lock:
            self._files.clear()

    def all(self) -> list[OpenFile]:
        """Those that are kept; the one that was used last comes last."""
        with self._lock:
            return list(self._files.values())


def _behind(buffers: Sequence[Buffer], done: int) -> list[memoryview]:
    """What is left of buffers whose first bytes are filled."""
    rest: list[memoryview] = []
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        rest.append(view[min(done, len(view)) :])
        done = max(done - len(view), 0)
    return [view for view in rest if len(view)]
