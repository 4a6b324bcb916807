"""A process that is killed again and again, each time at another request of a save."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from orchestrator.storage.store import Store, open_store
from tests.chaos.restarts import parts_of_last_start
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
from tests.recoveries import Recoveries
from tests.s3store import S3Store

pytestmark = [pytest.mark.chaos, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(1800)]


@dataclass(frozen=True)
class Hit:
    """A request at which the process is killed.

    Attributes:
        name: what it is in the middle of.
        method: of the request.
        key: how its key in the run's folder begins.
        newest: the newest checkpoint that there is then; 0 for none.
        fault: the request never arrives, or is done and not answered.
    """

    name: str
    method: str
    key: str
    newest: int
    fault: Literal["hang", "withhold"] = "hang"


HITS = (
    Hit("the first file", "PUT", f"{CHECKPOINTS}/step-00000002/rank-", newest=0),
    Hit("metrics.jsonl", "PUT", f"stages/{STAGE}/metrics.jsonl", newest=0),
    Hit("index.json", "PUT", f"{CHECKPOINTS}/step-00000006/index.json", newest=4),
    Hit("COMMIT", "PUT", f"{CHECKPOINTS}/step-00000010/COMMIT", newest=8),
    Hit("COMMIT, which is made", "PUT", f"{CHECKPOINTS}/step-00000014/COMMIT", 14, "withhold"),
    Hit("deleting an old one", "DELETE", f"{CHECKPOINTS}/step-00000014/rank-", newest=18),
    Hit("the weights", "PUT", f"stages/{STAGE}/weights/ema.safetensors", newest=STEPS),
    Hit("DONE", "PUT", f"stages/{STAGE}/DONE", newest=STEPS),
)


@dataclass(frozen=True)
class Story:
    """What the kills have left: the newest checkpoint after each, and how each start went on."""

    place: Place
    store: Store
    newest: list[int]
    ends: list[Ended]


@pytest.fixture(scope="module")
def proxy(s3_server: S3Store) -> Iterator[FaultProxy]:
    with fault_proxy(s3_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def story(
    s3_server: S3Store,
    proxy: FaultProxy,
    clips: str,
    recoveries: Recoveries,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Story]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        folder: Path = tmp_path_factory.mktemp("killed-saving")
        place = Place(
            folder=folder,
            runs=f"s3://{s3_server.bucket}/killed-saving",
            env=s3_server.environment(url=proxy.url),
        )
        place.write_recipe(clips=clips)
        store = open_store(place.uri)
        newest: list[int] = []
        ends: list[Ended] = []
        for before, hit in zip((None, *HITS), (*HITS, None), strict=True):
            began_s = time.time()
            ends.append(run(place, proxy, hit=hit))
            newest.append(max(saved(store), default=0))
            parts = parts_of_last_start(place, began_s=began_s)
            if before is not None and parts:
                recoveries.seconds[f"killed in {before.name} (plain process)"] = parts
        yield Story(place=place, store=store, newest=newest, ends=ends)


def run(place: Place, proxy: FaultProxy, *, hit: Hit | None) -> Ended:
    """Starts the command; kills it where it is to be hit."""
    if hit is not None:
        head = f"{hit.method} /{place.uri.removeprefix('s3://')}/{hit.key}"
        proxy.set(Fault(hit.fault, times=1, match=head.encode()))
    process = place.start()
    if hit is not None:
        assert proxy.was_hit.wait(LIMIT_S), f"{hit.name}: {ended(process)}"
        process.kill()
    return ended(process)


def test_every_kill_leaves_the_newest_commit(story: Story) -> None:
    assert [end.code for end in story.ends] == [*[-9] * len(HITS), 0], str(story.ends[-1])
    assert story.newest == [*(hit.newest for hit in HITS), STEPS]


def test_every_start_goes_on_from_it(story: Story) -> None:
    for hit, end in zip(HITS, story.ends[1:], strict=True):
        if hit.newest:
            assert f"{STAGE}: goes on from step {hit.newest}," in end.out, hit.name
        else:
            assert "goes on" not in end.out, hit.name


def test_the_end_is_bitwise_that_of_an_undisturbed_run(story: Story, undisturbed: Result) -> None:
    assert result_of(story.store) == undisturbed
    assert_each_clip_once(story.store)


def test_every_step_is_tracked_once(story: Story) -> None:
    assert_tracked(story.place, story.store, last=story.ends[-1])


def test_nothing_that_was_not_committed_is_left(story: Story) -> None:
    folders = {key.split("/")[3] for key in story.store.list(f"{CHECKPOINTS}/")}
    assert folders == {f"step-{step:08d}" for step in saved(story.store)}
    for folder in folders:
        assert len(story.store.list(f"{CHECKPOINTS}/{folder}/")) == 3  # state, index.json, COMMIT
