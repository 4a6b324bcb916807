"""`ray up` on hosts of one's own: with the very cluster.yaml and commands that users get."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from orchestrator.storage.store import Store, open_store
from tests.chaos.network import Network
from tests.chaos.runs import STAGE, metrics
from tests.chaos.ssh import ROOT, USER, Machine, processes_within, switched_on, why_no_ssh
from tests.tiny import STEPS, tiny_tree

_WHY_NOT = why_no_ssh()
pytestmark = [
    pytest.mark.chaos,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT)),
]

ON_PREMISES = ROOT / "cluster" / "on-premises"
WORKERS = ("one", "two", "three")
HOSTS = ("head", *WORKERS)
DASHBOARD = 8265
LIMIT_S = 600.0
IDLE = {"bash", "sshd", "ssh", "sleep"}  # what a machine without Ray runs
# Ray gives its own processes half a minute to start; on a busy machine it is asked again.
_SLOW = "timed out during startup"
# An sshd that was just started is tried once a second.
_SSH = ("ssh", "-oConnectionAttempts=60", "-oStrictHostKeyChecking=no", "-oLogLevel=ERROR")

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True)
class Seen:
    """What the commands said, and what they left on the hosts.

    Attributes:
        up: `ray up`.
        status: the first `ray status` with all workers.
        job: `rushes submit --follow`.
        down: `ray down`.
        stops: `ray stop` on the workers.
        outside: whether the dashboard could be reached without the tunnel.
        running: by host, what ran there at last.
        packages: hosts that had their packages then.
    """

    up: Done
    status: str
    job: Done
    down: Done
    stops: Done
    outside: bool
    running: dict[str, set[str]]
    packages: set[str]


@dataclass(frozen=True)
class Left:
    """What was on this machine when all machines were off: namespaces, mounts and processes."""

    spaces: str
    mounts: str
    processes: list[str]


@dataclass(frozen=True)
class Story:
    """All of it, with the run's folder."""

    seen: Seen
    left: Left
    run: Store


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("ray-up")  # every machine sees it, like a shared disk
    (home := folder / "home").mkdir()
    typed_with = {
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_UP_enable_autoscaler_v2": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    with Network("desk", *HOSTS) as network:
        desk, *hosts = (
            Machine(name, network=network, folder=folder, home=home, env=typed_with)
            for name in ("desk", *HOSTS)
        )
        for host in hosts:
            prepare(host)
        (folder / "cluster.yaml").write_text(filled_in("cluster.yaml", hosts=hosts))
        with switched_on(desk, *hosts):
            spaces = {machine.process_space for machine in (desk, *hosts)}
            seen = play(desk, hosts, folder=folder)
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    left = Left(
        spaces=listed.stdout,
        mounts=Path("/proc/mounts").read_text(),
        processes=processes_within(spaces),
    )
    return Story(seen, left, run=open_store(str(folder / "runs" / "tiny")))


def prepare(host: Machine) -> None:
    """As an earlier `ray up` left it: the packages are there."""
    place = host.home / "rushes"
    place.mkdir()
    (place / ".venv").symlink_to(sys.prefix)
    shutil.copyfile(ROOT / "constraints.txt", place / ".installed")


def filled_in(name: str, *, hosts: list[Machine]) -> str:
    """A file of the room with the user's own addresses."""
    text = (ON_PREMISES / name).read_text()
    for number, host in enumerate(hosts, start=10):
        text = text.replace(f"192.168.10.{number}", host.address)
    return text


def play(desk: Machine, hosts: list[Machine], *, folder: Path) -> Seen:
    """Types README.md's commands at the desk, one after the other."""
    readme = filled_in("README.md", hosts=hosts).splitlines()

    def line(start: str) -> tuple[str, ...]:
        """The only one of README.md that begins so, with the user's own file."""
        (found,) = (line for line in readme if line.startswith(start))
        own = str(folder / "cluster.yaml")
        return ("bash", "-c", found.replace("cluster/on-premises/cluster.yaml", own))

    for host in hosts:
        # `ray stop` kills by name all that it sees: on no account this machine's own.
        sees = desk.run(*_SSH, f"{USER}@{host.address}", "ps -e -o comm=").stdout
        assert set(sees.split()) <= IDLE | {"ps"}, sees
    token = desk.run(*line("ray get-auth-token"))
    assert token.returncode == 0, token.stdout
    up = desk.run(*line("ray up"))
    while _SLOW in up.stdout:
        up = desk.run(*line("ray up"))
    assert up.returncode == 0, up.stdout
    status = wait_for_workers(desk, *line("ray exec"))
    desk.start(*line("ray dashboard"), log=folder / "dashboard.log")
    wait_for(lambda: reaches(desk, "127.0.0.1"), log=folder / "dashboard.log")
    outside = reaches(desk, hosts[0].address)
    (said,) = re.findall(r"/(\d+)\.0 CPU", status)
    recipe = write_recipe(folder, cpus=int(said) // len(WORKERS))
    submit = (sys.executable, "-m", "orchestrator", "submit", str(recipe), "--follow")
    job = desk.run(*submit, "--address", f"http://127.0.0.1:{DASHBOARD}")
    down = desk.run(*line("ray down"))
    stops = desk.run(*line("for host in"))
    return Seen(
        up=up,
        status=status,
        job=job,
        down=down,
        stops=stops,
        outside=outside,
        running=settled(hosts),
        packages={host.name for host in hosts if (host.home / "rushes/.venv/bin/ray").exists()},
    )


def write_recipe(folder: Path, *, cpus: int) -> Path:
    """A gang of as many ranks as there are workers; each needs a whole one."""
    tree = tiny_tree(folder)
    (stage,) = (one for one in tree["stages"] if one["id"] == STAGE)
    stage["train"] |= {"batch": 6, "objective": {"kind": "autoencoder", "l2": 1.0}}
    stage["compute"] = {"workers": len(WORKERS), "cpus_per_worker": cpus, "zero": 2}
    tree["stages"] = [stage]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def wait_for_workers(desk: Machine, *status: str) -> str:
    """What `ray status` says once all are there: the head starts them by and by."""
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        said = desk.run(*status).stdout
        if f"{len(HOSTS)} local.cluster.node" in said:
            return said
        assert time.monotonic() < deadline_s, said


def wait_for(is_there: Callable[[], bool], *, log: Path) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not is_there():
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.2)


def reaches(desk: Machine, address: str) -> bool:
    """Whether a dashboard answers there."""
    return desk.run("bash", "-c", f"exec 3<>/dev/tcp/{address}/{DASHBOARD}").returncode == 0


def settled(hosts: list[Machine]) -> dict[str, set[str]]:
    """What runs on each at last."""
    deadline_s = time.monotonic() + LIMIT_S
    while True:
        running = {host.name: host.processes() for host in hosts}
        if all(one <= IDLE for one in running.values()) or time.monotonic() > deadline_s:
            return running
        time.sleep(0.5)


def test_the_head_starts_all_workers_over_ssh(story: Story) -> None:
    assert story.seen.up.returncode == 0
    assert "4 local.cluster.node" in story.seen.status


def test_the_dashboard_is_reached_through_the_tunnel_only(story: Story) -> None:
    assert not story.seen.outside


def test_a_job_trains_on_all_workers(story: Story) -> None:
    assert story.seen.job.returncode == 0, story.seen.job.stdout
    rows = metrics(story.run)
    assert [(row["step"], row["ranks"]) for row in rows] == [(at + 1, 3) for at in range(STEPS)]


def test_ray_is_taken_down_on_every_host_and_the_packages_stay(story: Story) -> None:
    assert story.seen.down.returncode == 0, story.seen.down.stdout
    assert "Exception occurred" not in story.seen.down.stdout
    assert story.seen.stops.returncode == 0, story.seen.stops.stdout
    assert {name: left - IDLE for name, left in story.seen.running.items()} == {
        name: set() for name in HOSTS
    }
    assert story.seen.packages == set(HOSTS)


def test_nothing_is_left_on_this_machine(story: Story) -> None:
    assert f"rushes{os.getpid()}-" not in story.left.spaces
    assert str(story.run.uri).removesuffix("/runs/tiny") not in story.left.mounts
    assert story.left.processes == []
