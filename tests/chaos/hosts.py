"""A Ray cluster of several hosts, each with its own address, processes, disk and shared memory."""

import os
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

from tests.chaos.network import Network

ROOT = Path(__file__).parents[2]
START_S = 180.0
GCS, DASHBOARD, AGENT = 6379, 8265, 52365
_STARTED = "Ray runtime started."
_SLOW = "timed out during startup"
# One that runs is `ray start --block`; the shell is its first process, which must bury the dead.
_BOOT = """
hostname "$NAME"
mount --bind "$DISK" "$TEMP"
mount -t tmpfs -o size=256m tmpfs /dev/shm
"$@" & wait
"""


class Host:
    """A machine that can be switched on and off.

    Args:
        name: of a host of the network.
        network: that it is in.
        folder: for its disk and its log.
        temp: Ray's folder, of the same name on every host; each has its own there.
        env: of all of its processes.
    """

    def __init__(
        self, name: str, *, network: Network, folder: Path, temp: Path, env: dict[str, str]
    ) -> None:
        self.address = network.address(name)
        self._inside = network.inside(name)
        self._log = folder / f"{name}.log"
        self._disk = folder / name
        self._disk.mkdir(parents=True)
        self._env = env | {
            "NAME": name,
            "DISK": str(self._disk),
            "TEMP": str(temp),
            "XDG_CACHE_HOME": str(self._disk / "cache"),
        }
        self._args: tuple[str, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None

    def switch_on(self, *args: str) -> None:
        """Boots, and starts Ray with these arguments."""
        self._args = args
        ray = (str(Path(sys.executable).parent / "ray"), "start", "--block", *args)
        command = (
            *(*self._inside, "unshare", "--mount", "--pid", "--fork", "--uts", "--mount-proc"),
            *("--kill-child=SIGKILL", "bash", "-c", _BOOT, "bash", *ray),
            *(f"--node-ip-address={self.address}", f"--dashboard-agent-listen-port={AGENT}"),
            *("--object-store-memory=100000000", "--disable-usage-stats"),
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, env=self._env, cwd=self._disk, stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Returns once Ray runs; Ray gives a busy machine half a minute, so it is asked again."""
        deadline_s = time.monotonic() + START_S
        while _STARTED not in self._log.read_text():
            assert time.monotonic() < deadline_s, self._log.read_text()[-2000:]
            if self._process is None or self._process.poll() is not None:
                assert _SLOW in self._log.read_text(), self._log.read_text()[-2000:]
                self.switch_on(*self._args)
            time.sleep(0.2)

    def switch_off(self) -> None:
        """Its power is cut: every process is gone, and says nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Cluster:
    """A head without CPUs, and workers of one CPU.

    Args:
        network: whose hosts are ``head``, the workers, and others.
        workers: names of hosts.
        folder: for disks and logs.
        env: of every host.
    """

    def __init__(
        self, network: Network, *, workers: tuple[str, ...], folder: Path, env: dict[str, str]
    ) -> None:
        # Ray's sockets have long names of their own: its folder must be short.
        self._temp = Path(f"/tmp/rc{os.getpid()}")
        self._temp.mkdir(exist_ok=True)
        self.head, *self.workers = (
            Host(name, network=network, folder=folder, temp=self._temp, env=env)
            for name in ("head", *workers)
        )

    @property
    def dashboard(self) -> str:
        """Where jobs are sent."""
        return f"http://{self.head.address}:{DASHBOARD}"

    def switch_on(self) -> None:
        """The head, then all workers at once."""
        self.head.switch_on(
            *("--head", f"--port={GCS}", f"--temp-dir={self._temp}", "--num-cpus=0"),
            *(f"--dashboard-host={self.head.address}", f"--dashboard-port={DASHBOARD}"),
        )
        self.head.wait()
        for worker in self.workers:
            worker.switch_on(f"--address={self.head.address}:{GCS}", "--num-cpus=1")
        for worker in self.workers:
            worker.wait()
        # Jobs are taken by the dashboard and started by the node's agent, which comes up later.
        _wait_for(f"{self.dashboard}/api/version")
        _wait_for(f"http://{self.head.address}:{AGENT}/api/local_raylet_healthz")

    def switch_off(self) -> None:
        """All of it at once."""
        for host in (self.head, *self.workers):
            host.switch_off()

    def close(self) -> None:
        """Switches off and removes what is left."""
        self.switch_off()
        self._temp.rmdir()


def _wait_for(url: str) -> None:
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            with urlopen(url, timeout=10):
                return
        except OSError as error:  # refused, reset, or no answer yet
            if getattr(error, "code", None) == 401:  # it answers, and wants the token
                return
            assert time.monotonic() < deadline_s, url
            time.sleep(0.2)
