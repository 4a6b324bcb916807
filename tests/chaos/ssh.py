"""Machines reached by ssh: each has its own address, processes, home and temporary files."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import psutil

from tests.chaos.network import Network, why_not

ROOT = Path(__file__).parents[2]
USER = "rushes"
START_S = 60.0
LIMIT_S = 600.0
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_TEMP = Path("/tmp")
_CONFIG = """
HostKey {disk}/host_key
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintLastLog no
"""
# Ray and ssh have files in /tmp whose names are the same everywhere: each machine gets its own
# /tmp, with what it needs of this one's in its place. sshd writes below /run and /var/log.
# The shell is the first process, which must bury the dead.
_BOOT = """
set -e
test $$ = 1
hostname "$NAME"
for place in "$@"; do
    mkdir -p "$DISK$place"
    mount --bind "$place" "$DISK$place"
done
mount --rbind "$DISK/tmp" /tmp
mount --bind "$DISK/home" "$HOME"
mount --bind "$DISK/passwd" /etc/passwd
for place in /run /var/log /dev/shm; do mount -t tmpfs tmpfs "$place"; done
mkdir /run/sshd
"$SSHD" -D -e -f "$DISK/sshd_config" &
wait
"""


def why_no_ssh() -> str | None:
    """What this machine lacks for it; None if nothing."""
    for tool in ("sshd", "ssh", "ssh-keygen", "rsync", "nsenter", "ps"):
        if shutil.which(tool, path=_PATH) is None:
            return f"{tool} not found, wanted: openssh-server, openssh-client, rsync, procps"
    return why_not()


class Machine:
    """One of them. Its user ``rushes`` is root by another name: only root reads root's Python.

    Args:
        name: of a host of the network.
        network: that it is in.
        folder: for its disk and its log; every machine sees it.
        home: the user's, of the same name on every machine; each has its own there.
        env: of commands that are typed on it.
    """

    def __init__(
        self, name: str, *, network: Network, folder: Path, home: Path, env: dict[str, str]
    ) -> None:
        self.name = name
        self.address = network.address(name)
        self._disk, self._log = folder / name, folder / f"{name}.log"
        self.home = self._disk / "home"
        for place in (self.home / ".ssh", self._disk / "tmp"):
            place.mkdir(parents=True, mode=0o700)
        (self._disk / "tmp").chmod(0o1777)
        user = f"{USER}:*:0:0::{home}:/bin/bash\n"
        (self._disk / "passwd").write_text(user + Path("/etc/passwd").read_text())
        (self._disk / "sshd_config").write_text(_CONFIG.format(disk=self._disk))
        make_key(self._disk / "host_key")
        self._inside = network.inside(name)
        needed = (folder, ROOT, Path(sys.prefix), Path(sys.base_prefix))
        self._needed = [str(one) for one in needed if one.is_relative_to(_TEMP)]
        sshd = str(shutil.which("sshd", path=_PATH))
        self._boot_env = {"NAME": name, "DISK": str(self._disk), "HOME": str(home), "SSHD": sshd}
        self._env = {"HOME": str(home), "USER": USER, "LOGNAME": USER, "PATH": _PATH} | env

    def __enter__(self) -> Self:
        """Switches it on."""
        own = ("unshare", "--mount", "--pid", "--fork", "--uts", "--mount-proc")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                (*self._inside, *own, "bash", "-c", _BOOT, "bash", *self._needed),
                env={"PATH": _PATH} | self._boot_env,
                stdout=log,
                stderr=log,
            )
        self._started: list[subprocess.Popen[bytes]] = []
        self._first = self._first_process()
        self.process_space = os.readlink(f"/proc/{self._first}/ns/pid")
        return self

    def __exit__(self, *_: object) -> None:
        """With its first process all others are gone."""
        os.kill(self._first, signal.SIGKILL)
        for process in (self._process, *self._started):
            process.wait()

    def start(self, *command: str, log: Path) -> "subprocess.Popen[bytes]":
        """A command as it is typed on this machine, in the repository.

        Args:
            log: what it prints. No pipe: the connections that ssh leaves open would hold it.
        """
        inside = ("nsenter", f"--target={self._first}", "--net", "--mount", "--pid", "--uts")
        env = [f"{name}={value}" for name, value in self._env.items()]
        with log.open("wb") as file:
            process = subprocess.Popen(
                (*inside, "env", "--ignore-environment", f"--chdir={ROOT}", *env, *command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._started.append(process)
        return process

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        """The same, to its end: what it printed is in ``stdout``."""
        with tempfile.NamedTemporaryFile() as log:
            process = self.start(*command, log=Path(log.name))
            code = process.wait(timeout=LIMIT_S)
            return subprocess.CompletedProcess(command, code, stdout=Path(log.name).read_text())

    def processes(self) -> set[str]:
        """Names of all that run here."""
        return set(self.run("ps", "-e", "-o", "comm=").stdout.split()) - {"ps"}

    def _first_process(self) -> int:
        deadline_s = time.monotonic() + START_S
        while not (below := psutil.Process(self._process.pid).children()):
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline_s, self._log.read_text()
            time.sleep(0.05)
        return below[0].pid


@contextmanager
def switched_on(*machines: Machine) -> Iterator[None]:
    """All of them; the first one's user has a key to the others."""
    first, *others = machines
    key = first.home / ".ssh" / "id_ed25519"
    make_key(key)
    for one in others:
        (one.home / ".ssh" / "authorized_keys").write_text(key.with_suffix(".pub").read_text())
    with ExitStack() as stack:
        for one in machines:
            stack.enter_context(one)
        yield


def make_key(path: Path) -> None:
    """Without a passphrase; the public half beside it."""
    command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
    subprocess.run(command, check=True, capture_output=True)


def processes_within(spaces: set[str]) -> list[str]:
    """Of this machine, those in any of these process namespaces."""
    found: list[str] = []
    for process in psutil.process_iter():
        with suppress(OSError):  # it has ended
            if os.readlink(f"/proc/{process.pid}/ns/pid") in spaces:
                found.append(str(process))
    return found
