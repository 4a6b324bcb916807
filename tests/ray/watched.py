"""What can be seen from outside of a command and of every process that it starts."""

import os
import socket
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psutil

_BETWEEN_S = 0.5


class Watched:
    """A running command.

    Args:
        process: it.
        folder: where it and its processes keep files while they run. They are opened as soon as
            they are seen, so that they can be read when they are deleted.
        carries: a variable of its environment, to see which processes inherit it.
    """

    def __init__(self, process: "subprocess.Popen[str]", *, folder: Path, carries: str) -> None:
        self._process = process
        self._folder = folder
        self._carries = carries
        self._files: dict[tuple[int, int], tuple[Path, BinaryIO]] = {}
        self.titles: set[str] = set()
        self.heirs: set[str] = set()  # titles of those that have the variable
        self.listening: set[tuple[str, str]] = set()  # address, title

    def until_it_ends(self, *, limit_s: float) -> int:
        """Looks again and again; returns the exit code."""
        for _ in range(int(limit_s / _BETWEEN_S)):
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(_BETWEEN_S)
            self._look()
        self._process.kill()
        raise subprocess.TimeoutExpired(self._process.args, limit_s)

    def files(self) -> Iterator[tuple[Path, bytes]]:
        """Every file that was seen in the folder, with all that was written to it."""
        for path, file in self._files.values():
            file.seek(0)
            yield path, file.read()

    def close(self) -> None:
        """Lets go of the files."""
        for _, file in self._files.values():
            file.close()

    def _look(self) -> None:
        titles: dict[int, str] = {}
        with suppress(psutil.Error):
            top = psutil.Process(self._process.pid)
            for process in (top, *top.children(recursive=True)):
                with suppress(psutil.Error):
                    title = " ".join(process.cmdline()).strip()
                    titles[process.pid] = title
                    if self._carries in process.environ():
                        self.heirs.add(title)
        self.titles |= set(titles.values())
        for one in psutil.net_connections("inet"):
            takes_all = one.type == socket.SOCK_DGRAM and not one.raddr
            if one.pid in titles and (one.status == psutil.CONN_LISTEN or takes_all):
                self.listening.add((one.laddr.ip, titles[one.pid]))
        for folder, _, names in os.walk(self._folder):  # which may vanish meanwhile
            for path in (Path(folder, name) for name in names):
                with suppress(OSError):  # gone already
                    self._keep(path)

    def _keep(self, path: Path) -> None:
        found = path.stat()
        key = (found.st_dev, found.st_ino)
        if stat.S_ISREG(found.st_mode) and key not in self._files:
            self._files[key] = (path, path.open("rb"))


def files_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file in a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


def holders(files: Sequence[tuple[Path | str, bytes]], *, text: str) -> list[str]:
    """Names of the files that hold a text."""
    return sorted(str(path) for path, data in files if text.encode() in data)
