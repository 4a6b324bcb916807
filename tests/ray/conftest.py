"""One Ray head for the whole room, on this machine's loopback, with its own token and ports."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml

ROOT = Path(__file__).parents[2]
# `ray`, which else takes a head at 127.0.0.1 for one at this machine's address in its network.
RAY = (
    sys.executable,
    "-c",
    "from ray._private import services; services.resolve_ip_for_localhost = lambda host: host; "
    "from ray.scripts.scripts import main; main()",
)
START_S = 180.0


@dataclass(frozen=True)
class Head:
    """A running head node: its addresses, and the environment that a client needs."""

    gcs: str
    dashboard: str
    metrics: str  # what Prometheus asks
    env: dict[str, str]
    session: Path  # the folder that Ray keeps its files in
    programs: Path  # where its nodes look first for programs

    def rushes(self, *args: str, cwd: Path = ROOT, **env: str) -> "subprocess.Popen[str]":
        """Starts a command that may talk to this head."""
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *args],
            cwd=cwd,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="package")  # it takes CPU from all tests for as long as it is up
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("head")
    # Ray's sockets have long names of their own: its folder must be short.
    short = Path(f"/tmp/rh{os.getpid()}")
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    programs = folder / "programs"
    programs.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
        # A job's `python` is whatever the node has first: here, this environment's.
        "PATH": os.pathsep.join(
            [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "RAY_metrics_report_interval_ms": "1000",  # a short run is seen by who asks
    }
    gcs, dashboard, client, agent, agent_grpc, metrics = free_ports(6)
    command = [
        *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"),
        *("--node-ip-address=127.0.0.1", f"--port={gcs}", f"--temp-dir={short}"),
        *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"),
        *(f"--dashboard-agent-grpc-port={agent_grpc}", f"--metrics-export-port={metrics}"),
        *(
            "--num-cpus=2",
            "--num-gpus=1",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
        ),
    ]
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        # Jobs are taken by the dashboard and started by the node's agent, which comes up later.
        for port, path in ((dashboard, "version"), (agent, "local_raylet_healthz")):
            _wait_for(f"http://127.0.0.1:{port}/api/{path}", process, folder / "head.log")
        yield Head(
            gcs=f"127.0.0.1:{gcs}",
            dashboard=f"http://127.0.0.1:{dashboard}",
            metrics=f"http://127.0.0.1:{metrics}/metrics",
            env=env,
            session=short / "session_latest",
            programs=programs,
        )
    finally:
        process.kill()  # its children die with it; asked to end, it takes half a minute
        process.wait()
        shutil.rmtree(short, ignore_errors=True)


def _wait_for(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urlopen(url, timeout=10):
                return
        except OSError as error:  # refused, reset, or no answer yet
            if getattr(error, "code", None) == 401:  # it answers, and wants the token
                return
            time.sleep(0.5)
    pytest.fail(f"the head did not start: {log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture
def recipe_file(tmp_path: Path, clips: Path):
    """Writes a small recipe: the debug recipe with few, quick steps."""

    def write(*, stages: tuple[str, ...] = ("autoencoder",), steps: int = 4) -> Path:
        tree = yaml.safe_load((ROOT / "jobs" / "sora_debug.yaml").read_text())
        tree["name"] = "tiny"
        tree["runs"] = str(tmp_path / "runs")
        tree["tracking"] = {"uri": f"sqlite:///{tmp_path}/mlflow.db"}
        for split, count in (("train", 32), ("eval", 8)):
            tree["data"][split] = {"uri": str(clips / split), "digits": {"clips": count}}
        tree["stages"] = [stage for stage in tree["stages"] if stage["id"] in stages]
        for stage in tree["stages"]:
            if "train" in stage:
                train = stage["train"]
                train |= {"steps": steps, "batch": 4, "micro_batch": 2, "log_every": 1}
                train["optim"]["warmup_steps"] = 1
                train.pop("preview", None)
                stage["save"] = {"every_steps": max(steps // 2, 1)}
            if "evaluate" in stage:
                stage["evaluate"]["prompts"] = 2
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write
