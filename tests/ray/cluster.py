"""A Ray cluster of several nodes on this machine, each of which can lose its power."""

import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tests.ray.conftest import RAY, START_S, free_ports

_STARTED = "Ray runtime started."
_SLOW = "timed out during startup"


class Node:
    """One `ray start --block` and all that it starts, at a loopback address of its own."""

    def __init__(self, *args: str, address: str, folder: Path, env: dict[str, str]) -> None:
        self._log = folder / f"{address}.log"
        self._folder = folder
        self._env = env
        agent, agent_grpc, metrics = free_ports(3)
        self._command = [
            *(*RAY, "start", "--block", *args),
            *(f"--node-ip-address={address}", f"--dashboard-agent-listen-port={agent}"),
            *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"),
            *("--object-store-memory=100000000", "--disable-usage-stats"),
        ]
        self._process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("wb") as log:
            return subprocess.Popen(
                self._command,
                env=self._env,
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Returns once it runs; Ray gives a busy machine half a minute, so it is asked again."""
        deadline_s = time.monotonic() + START_S
        while _STARTED not in self._log.read_text():
            assert time.monotonic() < deadline_s, self._log.read_text()[-2000:]
            if self._process.poll() is not None:
                assert _SLOW in self._log.read_text(), self._log.read_text()[-2000:]
                self._process = self._start()
            time.sleep(0.2)

    def processes(self) -> list[psutil.Process]:
        """All that runs on it."""
        if self._process.poll() is not None:
            return []
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]

    def kill(self) -> None:
        """Ends all of it at once, as when its power is cut."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


class Cluster:
    """A head without CPUs, and nodes of two.

    Args:
        folder: for logs.
        short: a folder for Ray with a short name, made and removed here.
        nodes: beside the head.
        env: of all of its processes.
    """

    def __init__(self, folder: Path, *, short: Path, nodes: int, env: dict[str, str]) -> None:
        folder.mkdir()
        gcs, dashboard, client = free_ports(3)
        self.gcs = f"127.0.0.1:{gcs}"
        self._short = short
        head = Node(
            *("--head", f"--port={gcs}", f"--temp-dir={short}", "--num-cpus=0"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            f"--ray-client-server-port={client}",
            address="127.0.0.1",
            folder=folder,
            env=env,
        )
        self.nodes = [head]
        try:
            head.wait()
            for number in range(nodes):
                node = Node(
                    *(f"--address={self.gcs}", "--num-cpus=2"),
                    address=f"127.0.0.{2 + number}",
                    folder=folder,
                    env=env,
                )
                self.nodes.append(node)
                node.wait()
        except BaseException:
            self.kill()
            raise

    def node_of(self, pid: int) -> Node:
        """The node that a process runs on."""
        return next(node for node in self.nodes if any(one.pid == pid for one in node.processes()))

    def workers(self) -> list[psutil.Process]:
        """The ranks of every gang."""
        return [process for node in self.nodes for process in node.processes() if _is_rank(process)]

    def kill(self) -> None:
        """The head and every node at once."""
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self._short, ignore_errors=True)


def _is_rank(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any("RayTrainWorker" in part for part in process.cmdline())
    return False
