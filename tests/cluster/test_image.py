"""The image: what is installed, as whom it runs, and the two scripts in it."""

import os
import re
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.cluster.files import CLUSTER, ROOT, instructions, pinned

IMAGE = CLUSTER / "image"
SCRIPTS = ("rushes-leave", "rushes-spot-watch")


def test_everything_that_is_installed_has_its_version() -> None:
    (base,) = [rest for word, rest in instructions() if word == "FROM"]
    assert re.fullmatch(r"python:3\.11-slim-\w+", base)
    (install,) = [rest for _, rest in instructions() if "pip install" in rest]
    assert "--constraint constraints.txt ." in install
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned(requirement.name))
    extra = install.partition("constraints.txt . ")[2].split(" && ")[0]
    assert all("==" in word for word in extra.split())


def test_it_does_not_run_as_root_and_holds_no_code_of_ours() -> None:
    words = [word for word, _ in instructions()]
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users == ["1000"]
    assert "ADD" not in words
    copied = " ".join(rest for word, rest in instructions() if word == "COPY")
    assert "orchestrator" not in copied
    assert ". " not in copied.replace("./", "")


def test_it_has_the_programs_that_others_call_in_it() -> None:
    """Those of our scripts, of KubeRay's probes (wget) and of `ray up` (rsync, ssh)."""
    (install,) = [rest for word, rest in instructions() if word == "RUN" and "apt-get" in rest]
    assert {"procps", "curl", "wget", "openssh-client", "rsync", "g++"} <= set(install.split())


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    lines = (IMAGE / "Dockerfile.dockerignore").read_text().split()
    assert lines[0] == "*"
    allowed = {line.removeprefix("!") for line in lines[1:]}
    named = ("constraints.txt", "pyproject.toml", "README.md", "LICENSE")
    assert allowed == {*named, "cluster/image/rushes-*"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_plain_shell(name: str) -> None:
    path = IMAGE / name
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/bin/sh\n")
    done = subprocess.run(["sh", "-n", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Stand-ins for ray, pkill and pgrep that write down how they were called.

    ``pgrep`` finds a process twice, then none; ``date`` knows what was slept, and what ``took``.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("ray", "pkill", "pgrep", "sleep"):
        path = folder / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path}/calls"\n')
        path.chmod(0o755)
    with (folder / "pgrep").open("a") as file:
        file.write(f'[ "$(grep -c ^pgrep "{tmp_path}/calls")" -le 2 ]\n')
    (tmp_path / "calls").touch()
    clock = folder / "date"
    seconds = "/^(sleep|took)/ {s += $2} END {print 1000 + s}"
    clock.write_text(f"#!/bin/sh\nawk '{seconds}' \"{tmp_path}/calls\"\n")
    clock.chmod(0o755)
    return folder


def run(tools: Path, *command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    return subprocess.run(
        [str(IMAGE / command[0]), *command[1:]],
        env=os.environ | {"PATH": path} | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def calls(tools: Path) -> list[str]:
    return (tools.parent / "calls").read_text().splitlines()


def test_a_head_that_leaves_stops_its_drivers_and_waits_for_them(tools: Path) -> None:
    assert run(tools, "rushes-leave", "head", "60").returncode == 0
    first, *others = calls(tools)
    assert first == "pkill -TERM -f [o]rchestrator train"
    looks = [one for one in others if one.startswith("pgrep")]
    assert looks == ["pgrep -f [o]rchestrator train"] * 3


def test_a_worker_that_leaves_tells_ray_how_long_it_has(tools: Path) -> None:
    assert run(tools, "rushes-leave", "worker", "60").returncode == 0
    first, *others = calls(tools)
    assert first.startswith("ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION")
    assert first.endswith("--deadline-remaining-seconds 60")
    assert [one for one in others if one.startswith("pgrep")] == ["pgrep -f [R]ayTrainWorker"] * 3


def test_a_worker_asks_again_while_the_head_does_not_answer(tools: Path) -> None:
    with (tools / "ray").open("a") as file:
        file.write(f'[ "$(grep -c ^ray "{tools.parent}/calls")" -gt 1 ]\n')
    assert run(tools, "rushes-leave", "worker", "60").returncode == 0
    asked = [one.rpartition(" ")[2] for one in calls(tools) if one.startswith("ray")]
    assert asked == ["60", "55"]


def test_the_time_that_ray_takes_to_answer_is_gone(tools: Path) -> None:
    with (tools / "ray").open("a") as file:
        file.write(f'echo took 20 >>"{tools.parent}/calls"\nexit 1\n')
    assert run(tools, "rushes-leave", "worker", "60").returncode == 0
    asked = [one.rpartition(" ")[2] for one in calls(tools) if one.startswith("ray")]
    assert asked == ["60", "35", "10"]


def test_a_worker_does_not_ask_longer_than_it_has(tools: Path) -> None:
    with (tools / "ray").open("a") as file:
        file.write(f'echo took 57 >>"{tools.parent}/calls"\nexit 1\n')
    assert run(tools, "rushes-leave", "worker", "60").returncode == 1
    assert not [one for one in calls(tools) if one.startswith("sleep")]


def test_a_worker_without_a_gang_does_not_wait_for_a_head_that_is_gone(tools: Path) -> None:
    with (tools / "ray").open("a") as file:
        file.write("exit 1\n")
    assert run(tools, "rushes-leave", "worker", "60").returncode == 0
    assert [one for one in calls(tools) if one.startswith("sleep")] == ["sleep 5"] * 2


def test_a_node_does_not_wait_longer_than_it_has(tools: Path) -> None:
    assert run(tools, "rushes-leave", "worker", "1").returncode == 0
    assert calls(tools).count("pgrep -f [R]ayTrainWorker") == 1


def test_ray_knows_the_command_that_drains_a_node() -> None:
    from click.testing import CliRunner
    from ray.scripts.scripts import cli

    shown = CliRunner().invoke(cli, ["drain-node", "--help"]).output
    for option in ("--reason", "--reason-message", "--deadline-remaining-seconds"):
        assert option in shown
    assert "Will default to current node" in " ".join(shown.split())
    assert "DRAIN_NODE_REASON_PREEMPTION" in " ".join(shown.split())


@contextmanager
def metadata(*, notice_after: int) -> Iterator[str]:
    """A metadata server of both clouds; its notice is there from the given question on."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            self.answer(200, b"session" if self.path == "/latest/api/token" else b"")

        def do_GET(self) -> None:
            asked.append(self.path)
            there = len(asked) > notice_after
            if self.path == "/latest/meta-data/spot/instance-action":
                allowed = self.headers["X-aws-ec2-metadata-token"] == "session"
                self.answer(200 if there and allowed else 404, b'{"action": "terminate"}')
            elif self.path == "/computeMetadata/v1/instance/preempted":
                allowed = self.headers["Metadata-Flavor"] == "Google"
                self.answer(200 if allowed else 403, b"TRUE" if there else b"FALSE")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("cloud", "left"), [("aws", 110), ("gcp", 25)])
def test_a_spot_notice_makes_the_node_leave(tools: Path, cloud: str, left: int) -> None:
    with metadata(notice_after=2) as url:
        done = run(tools, "rushes-spot-watch", cloud, METADATA=url, NO_PROXY="127.0.0.1")
    assert done.returncode == 0, done.stderr
    assert calls(tools)[:2] == ["sleep 5"] * 2  # until there is a notice
    assert calls(tools)[2].endswith(f"--deadline-remaining-seconds {left}")


@pytest.mark.parametrize("command", [("rushes-leave", "x", "1"), ("rushes-spot-watch", "x")])
def test_a_wrong_argument_is_exit_2(tools: Path, command: tuple[str, ...]) -> None:
    done = run(tools, *command)
    assert done.returncode == 2
    assert "wanted" in done.stderr
