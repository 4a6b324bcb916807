"""The bucket that clips are read from breaks in every way; what is trained stays the same."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml

from orchestrator.data.index import Index, Sample, write_index
from orchestrator.data.shards import NewSample, shard_name, write_shard
from orchestrator.storage.store import Store, open_store
from tests.chaos.runs import (
    LIMIT_S,
    STAGE,
    Ended,
    Place,
    Result,
    assert_each_clip_once,
    ended,
    result_of,
)
from tests.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.s3store import READER_KEY, SECRET_KEY, S3Store

pytestmark = [pytest.mark.chaos, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(1200)]

PER_SHARD = 2  # of 24 clips: many requests
PREFIX = "data-store/clips"


@pytest.fixture
def proxy(s3: S3Store) -> Iterator[FaultProxy]:
    """In front of a server that tests may kill."""
    with fault_proxy(s3.port) as proxy:
        yield proxy
    if not s3.is_up:
        s3.start()


@pytest.fixture
def films(s3: S3Store, clips: str, undisturbed: Result) -> str:
    """URI in the bucket of the clips that the undisturbed run was trained on."""
    place = f"s3://{s3.bucket}/{PREFIX}"
    for split in ("train", "eval"):
        copy_source(f"{clips}/{split}", to=f"{place}/{split}")
    return place


def copy_source(uri: str, *, to: str) -> None:
    """The same clips, in the same order, in smaller shards."""
    index, store = Index.open(uri), open_store(to)
    samples = [index.sample(row) for row in range(len(index))]
    written = [
        write_shard(
            store,
            shard_name(first // PER_SHARD),
            [_copied(index, one) for one in samples[first : first + PER_SHARD]],
        )
        for first in range(0, len(samples), PER_SHARD)
    ]
    write_index(store, written, origin=index.origin)


def _copied(index: Index, sample: Sample) -> NewSample:
    return NewSample(
        key=sample.key,
        members={
            one.ext: index.store.get_range(sample.shard, start=one.offset, length=one.size)
            for one in sample.members
        },
        bucket=sample.bucket,
        fps=sample.fps,
        source="digits",
        captions=sample.captions,
        labels=sample.labels,
    )


def assert_trained_as(undisturbed: Result, *, store: Store) -> None:
    """The same to the last bit, from each clip once; only the index has another digest."""
    found = result_of(store)
    position = found.position | {"index": undisturbed.position["index"]}
    assert replace(found, position=position) == undisturbed
    assert_each_clip_once(store)


def write_recipe(place: Place, *, films: str) -> None:
    """The training of every test of this room; each clip is fetched when a step wants it."""
    path = place.write_recipe(clips=films)
    tree = yaml.safe_load(path.read_text())
    tree["data"] |= {"cache_bytes": 1, "memory_bytes": 0}
    path.write_text(yaml.safe_dump(tree))


@dataclass(frozen=True)
class Mistake:
    """What a user has got wrong: variables, or the bucket; and what is said."""

    name: str
    text: str
    env: dict[str, str] = field(default_factory=dict[str, str])
    bucket: str = ""


HUNTER = "hunter2-hunter2"
MISTAKES = (
    Mistake("wrong-key", "refused these credentials", env={"AWS_SECRET_ACCESS_KEY": HUNTER}),
    Mistake("no-bucket", "bucket nowhere does not exist", bucket="s3://nowhere"),
    Mistake("read-only", "may read here but not write", env={"AWS_ACCESS_KEY_ID": READER_KEY}),
)


def shard(number: int | None = None) -> bytes:
    """How the head of a request for a shard of training clips has it, or for any."""
    name = "shard-" if number is None else shard_name(number)
    return f"{PREFIX}/train/{name}".encode()


def test_whatever_fails_on_the_way_every_clip_is_read_right(
    s3: S3Store, proxy: FaultProxy, films: str, tmp_path: Path, undisturbed: Result
) -> None:
    """By credentials that may only read: a source that is there needs no more."""
    env = s3.environment(url=proxy.url) | {"AWS_ACCESS_KEY_ID": READER_KEY}
    place = Place(folder=tmp_path, runs=str(tmp_path / "runs"), env=env)
    write_recipe(place, films=films)
    proxy.set(
        Fault("status", times=5, match=shard(0)),
        Fault("refuse", times=3, match=shard(1)),
        Fault("reset", times=3, match=shard(2), after_bytes=5000),
        Fault("truncate", times=3, match=shard(3), after_bytes=5000),
        Fault("hang", times=1, match=shard(4)),
        Fault("slow", times=3, match=shard(5)),
        Fault("swallow", times=2, match=shard(6)),
        Fault("status", times=2, match=b"list-type"),
        Fault("truncate", times=1, match=b"index.parquet", after_bytes=500),
    )
    end = ended(place.start())
    assert (end.code, end.err) == (0, ""), str(end)
    assert proxy.left == []
    assert_trained_as(undisturbed, store=open_store(place.uri))


def test_a_run_outlives_the_kill_of_its_store_or_goes_on_after_it(
    s3: S3Store, proxy: FaultProxy, films: str, tmp_path: Path, undisturbed: Result
) -> None:
    place = Place(folder=tmp_path, runs=str(tmp_path / "runs"), env=s3.environment(url=proxy.url))
    write_recipe(place, films=films)
    process = place.start()
    kill_at(s3, proxy, skip=20, process=process)
    s3.start()
    kill_at(s3, proxy, skip=30, process=process)
    assert_unavailable(ended(process), text=f"get {films}/train/shard-")
    assert_unavailable(ended(place.start()), text=f"reach {films}/train")
    s3.start()
    end = ended(place.start())
    assert (end.code, end.err) == (0, ""), str(end)
    assert f"{STAGE}: goes on from step" in end.out
    assert_trained_as(undisturbed, store=open_store(place.uri))


@pytest.mark.parametrize("side", ["clips", "runs"])
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: one.name)
def test_what_the_user_must_mend_is_one_line(
    s3: S3Store, bucket: str, tmp_path: Path, side: str, mistake: Mistake
) -> None:
    there, here = mistake.bucket or bucket, str(tmp_path)
    place = Place(
        folder=tmp_path,
        runs=f"{there if side == 'runs' else here}/runs",
        env=s3.environment() | mistake.env,
    )
    place.write_recipe(clips=f"{there if side == 'clips' else here}/clips")
    end = ended(place.start())
    assert end.code == 2, str(end)
    assert end.err.startswith(f"rushes: {there}/{side}/"), str(end)
    assert mistake.text in end.err
    assert end.err.count("\n") == 1
    assert HUNTER not in end.out + end.err
    assert SECRET_KEY not in end.out + end.err
    assert open_store(bucket).list("") == []


def kill_at(s3: S3Store, proxy: FaultProxy, *, skip: int, process: "subprocess.Popen[str]") -> None:
    """SIGKILL for the store when a run wants one more shard than ``skip``."""
    proxy.set(Fault("hold", times=1, match=shard(), skip=skip))
    assert proxy.was_hit.wait(LIMIT_S), str(ended(process))
    s3.kill()
    proxy.release()


def assert_unavailable(end: Ended, *, text: str) -> None:
    """75, and one line."""
    assert end.code == 75, str(end)
    assert text in end.err, str(end)
    assert ": gave up after " in end.err
    assert end.err.count("\n") == 1
