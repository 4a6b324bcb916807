"""Nodes that join a head of tests/ray/conftest.py on this machine, and are lost or drained."""

import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil
import ray

from tests.ray.conftest import RAY, Head, free_ports

START_S = 120.0


class Raylet:
    """One more node; the process that uses this has joined the cluster."""

    def __init__(self, head: Head, *, name: str, cpus: int, log: Path) -> None:
        self._head = head
        agent, agent_grpc, metrics = free_ports(3)
        command = [
            *(*RAY, "start", "--block", f"--address={head.gcs}", "--node-ip-address=127.0.0.1"),
            *(f"--num-cpus={cpus}", "--num-gpus=0", f"--labels=name={name}"),
            *("--object-store-memory=80000000", f"--dashboard-agent-listen-port={agent}"),
            *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"),
            "--disable-usage-stats",
        ]
        # The name is historical: the head's 0 would refuse a second node.
        env = head.env | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, env=env, cwd=log.parent, stdout=out, stderr=out
            )
        self.id = self._joined(name, log)

    def _joined(self, name: str, log: Path) -> str:
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s and self._process.poll() is None:
            for node in ray.nodes():
                if node["Alive"] and node["Labels"].get("name") == name:
                    return node["NodeID"]
            time.sleep(0.2)
        raise AssertionError(f"the node did not start: {log.read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL to the raylet and all that it started; returns when none of it is left.

        Its workers die of a raylet's end by themselves, but go on for some steps until they see it.
        """
        below = psutil.Process(self._process.pid).children(recursive=True)
        raylet = next(one for one in below if one.name() == "raylet")
        lost = [raylet, *raylet.children(recursive=True)]
        for one in lost:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(lost, timeout=START_S)

    def drain(self, *, deadline_s: int) -> None:
        """What a cloud says before it takes a spot node away."""
        command = [
            *(*RAY, "drain-node", f"--address={self._head.gcs}", f"--node-id={self.id}"),
            *("--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"),
            f"--deadline-remaining-seconds={deadline_s}",
        ]
        subprocess.run(command, env=self._head.env, check=True, capture_output=True)

    def close(self) -> None:
        """Ends what is left of it."""
        with suppress(psutil.NoSuchProcess):
            for one in psutil.Process(self._process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        self._process.kill()
        self._process.wait()
