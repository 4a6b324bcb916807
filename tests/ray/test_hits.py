"""One run on a cluster that is hit again and again: a rank, both, a node, the driver, the cluster.

Every hit comes while a save is under way, at a request that never arrives. In between the newest
checkpoint is damaged. The end is compared with that of a gang that nobody disturbed.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from orchestrator.storage.store import Store, open_store
from tests.chaos.restarts import events_of, parts_of_last_start
from tests.chaos.runs import (
    CHECKPOINTS,
    LIMIT_S,
    STAGE,
    STEPS,
    Ended,
    Place,
    Result,
    assert_each_clip_once,
    assert_tracked,
    ended,
    result_of,
    saved,
)
from tests.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.ray.cluster import Cluster
from tests.ray.conftest import ROOT
from tests.recoveries import Recoveries
from tests.s3store import S3Store

pytestmark = [
    *(pytest.mark.chaos, pytest.mark.s3, pytest.mark.ray, pytest.mark.slow),
    pytest.mark.timeout(1800),
]

RECOVERED = re.compile(
    r"lost workers at step (\d+), beyond it again after [\d.]+ s: (.*) s \((\d+)"
)
HITS = ("a rank killed", "both ranks killed", "a node killed")


@dataclass(frozen=True)
class Story:
    """One run and the three commands that it took.

    Attributes:
        first: lost a rank, both ranks and a node, and was killed itself.
        second: found the newest checkpoint damaged, and lost the head.
        third: came to the end.
        saved: the newest checkpoint at the end of each.
    """

    place: Place
    store: Store
    first: Ended
    second: Ended
    third: Ended
    saved: list[int]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hits")


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Result:
    """Of two plain processes."""
    place = Place(folder=folder / "undisturbed", runs=str(folder / "undisturbed" / "runs"))
    place.write_recipe(clips=str(folder / "clips"), workers=2)
    end = ended(place.start())
    assert (end.code, end.err) == (0, ""), str(end)
    return result_of(open_store(place.uri))


@pytest.fixture(scope="module")
def proxy(s3_server: S3Store) -> Iterator[FaultProxy]:
    with fault_proxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def place(s3_server: S3Store, proxy: FaultProxy, folder: Path) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        place = Place(
            folder=folder,
            runs=f"s3://{s3_server.bucket}/hits",
            env=s3_server.environment(url=proxy.url) | ray_env(folder),
        )
        place.write_recipe(clips=str(folder / "clips"), workers=2)
        yield place


def ray_env(folder: Path) -> dict[str, str]:
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }


@pytest.fixture(scope="module")
def story(place: Place, proxy: FaultProxy, undisturbed: Result, recoveries: Recoveries) -> Story:
    store = open_store(place.uri)
    newest: list[int] = []
    cluster = start_cluster(place, number=1, nodes=2)
    try:
        expect(proxy, place, key="step-00000004/rank-0001")
        process = start(place, cluster)
        at(proxy, process)
        owner = owner_of(store)
        (other,) = [one for one in cluster.workers() if one.pid != owner]
        expect(proxy, place, key="step-00000008/COMMIT")
        other.kill()

        at(proxy, process)
        wait_for_recoveries(place, 1)
        ranks = cluster.workers()
        assert len(ranks) == 2
        expect(proxy, place, key="step-00000012/rank-0000")
        for one in ranks:
            one.kill()

        at(proxy, process)
        wait_for_recoveries(place, 2)
        expect(proxy, place, key="step-00000016/index.json")
        cluster.node_of(owner_of(store)).kill()

        at(proxy, process)
        wait_for_recoveries(place, 3)
        process.kill()
        first = ended(process)
        newest.append(saved(store)[0])
        flip(store, f"{CHECKPOINTS}/step-{newest[0]:08d}/rank-0001")

        expect(proxy, place, key="step-00000020/COMMIT")
        began_s = time.time()
        process = start(place, cluster)
        at(proxy, process)
        recoveries.seconds["the driver killed, the newest checkpoint damaged"] = (
            parts_of_last_start(place, began_s=began_s)
        )
    finally:
        cluster.kill()
    second = ended(process)
    newest.append(saved(store)[0])

    cluster = start_cluster(place, number=2, nodes=1)
    try:
        began_s = time.time()
        third = ended(start(place, cluster))
        recoveries.seconds["the whole cluster killed (a new one runs)"] = parts_of_last_start(
            place, began_s=began_s
        )
        newest.append(saved(store)[0])
    finally:
        cluster.kill()
    for hit, note in zip(HITS, RECOVERED.finditer(first.out), strict=False):
        parts = (part.rsplit(" ", 1) for part in note[2].split(", "))
        recoveries.seconds[hit] = {name: float(seconds) for name, seconds in parts}
    return Story(place=place, store=store, first=first, second=second, third=third, saved=newest)


def start_cluster(place: Place, *, number: int, nodes: int) -> Cluster:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return Cluster(
        place.folder / f"cluster-{number}",
        short=Path(f"/tmp/rc{os.getpid()}-{number}"),
        nodes=nodes,
        # What the driver has switched off, for the sake of its own address, nodes need to join.
        env=own | place.env | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"},
    )


def start(place: Place, cluster: Cluster) -> "subprocess.Popen[str]":
    """The command, on the cluster."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "train", str(place.folder / "recipe.yaml")],
        cwd=ROOT,
        env=own | place.env | {"RAY_ADDRESS": cluster.gcs},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def expect(proxy: FaultProxy, place: Place, *, key: str) -> None:
    """The next hit is at the put of this file of a checkpoint."""
    head = f"PUT /{place.uri.removeprefix('s3://')}/{CHECKPOINTS}/{key}"
    proxy.set(Fault("hang", times=1, match=head.encode()))


def at(proxy: FaultProxy, process: "subprocess.Popen[str]") -> None:
    """Waits for it."""
    if not proxy.was_hit.wait(LIMIT_S):
        process.kill()
        pytest.fail(str(ended(process)))


def wait_for_recoveries(place: Place, count: int) -> None:
    """Until the driver has told of so many: the gang goes on up to the next save."""
    deadline_s = time.monotonic() + LIMIT_S
    while sum(bool(RECOVERED.match(one.get("text", ""))) for one in events_of(place)) < count:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def owner_of(store: Store) -> int:
    """Rank 0's process."""
    owner: dict[str, Any] = json.loads(store.get(f"stages/{STAGE}/owner.json"))
    assert psutil.pid_exists(owner["pid"])
    return owner["pid"]


def flip(store: Store, prefix: str) -> None:
    (key,) = store.list(prefix)
    raw = bytearray(store.get(key))
    raw[len(raw) // 2] ^= 1
    store.put(key, bytes(raw))


def test_a_gang_starts_again_after_each_loss_in_the_same_command(story: Story) -> None:
    assert story.first.code == -9
    notes = RECOVERED.findall(story.first.out)
    assert len(notes) == len(HITS), str(story.first)
    for resumed in (2, 6, 10):
        assert f"{STAGE}: goes on from step {resumed}," in story.first.out
    assert all(int(repeated) <= 4 for _, _, repeated in notes)  # two saves: one was under way


def test_a_killed_driver_and_a_damaged_checkpoint_are_gone_around(story: Story) -> None:
    assert story.saved[0] == 14
    assert "put aside checkpoint of step 14: rank-0001" in story.second.out
    assert f"{STAGE}: goes on from step 12," in story.second.out


def test_a_lost_cluster_ends_the_command_as_unavailable(story: Story) -> None:
    assert story.second.code == 75, str(story.second)
    (line,) = [line for line in story.second.err.splitlines() if line.startswith("rushes: ")]
    assert "lost Ray" in line
    assert "start the same command again" in line


def test_the_run_goes_on_from_its_storage_on_a_new_cluster(story: Story) -> None:
    assert story.third.code == 0, str(story.third)
    assert story.saved[1:] == [18, STEPS]
    assert f"{STAGE}: goes on from step 18," in story.third.out


def test_the_end_is_bitwise_that_of_an_undisturbed_gang(story: Story, undisturbed: Result) -> None:
    assert result_of(story.store) == undisturbed
    assert_each_clip_once(story.store)


def test_every_step_is_tracked_once(story: Story) -> None:
    assert_tracked(story.place, story.store, last=story.third)
