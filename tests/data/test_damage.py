"""What a rotten bit, an absent store and a heavy import would cost is found out here."""

import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from orchestrator.data.index import Bucket, Index
from orchestrator.data.pool import alone
from orchestrator.data.reader import Reader
from orchestrator.data.sources import ensure_sources
from orchestrator.data.stream import Stream
from orchestrator.errors import UnavailableError, UserError
from tests.data.clips import flip_bit, frames_of, write_source
from tests.fault_proxy import Fault, fault_proxy
from tests.s3store import S3Store
from tests.tiny import tiny_recipe

SHAPE: Bucket = (3, 8, 8)
CLIPS = 4
TRIALS = 200


def open_reader(index: Index, folder: Path) -> Reader:
    return Reader(index, cache_dir=str(folder), cache_bytes=1_000_000, memory_bytes=0)


def test_every_flipped_bit_is_found_before_the_sample_is_used(tmp_path: Path) -> None:
    index = write_source(str(tmp_path / "clips"), {SHAPE: CLIPS})
    (shard,) = index.shards
    path = tmp_path / "clips" / shard
    whole = path.read_bytes()
    reader = open_reader(index, tmp_path)
    draw = random.Random(0)
    found = 0
    for _ in range(TRIALS):
        bit = draw.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        for row in range(CLIPS):
            member = index.sample(row).members[0]
            if member.offset <= bit // 8 < member.offset + member.size:
                with pytest.raises(UserError, match=r"\.npz is damaged: xxh64="):
                    reader.read(row)
                found += 1
            else:
                _, arrays = reader.read(row)
                assert (arrays["frames"] == frames_of(row, SHAPE)).all()
    assert found > TRIALS // 10  # the rest hit headers and padding, which are never read


def test_a_damaged_shard_stops_the_stream_by_name(tmp_path: Path) -> None:
    index = write_source(f"memory://{uuid4().hex}", {SHAPE: CLIPS})
    sample = index.sample(2)
    flip_bit(index.store, sample.shard, offset=sample.members[0].offset)
    stream = Stream(
        alone(index), seed=0, batch=CLIPS, rank=0, world_size=1, cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(UserError, match=rf"{sample.shard} is damaged: xxh64="):
        stream.next()
    stream.close()


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An endpoint at which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        for name, value in {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{taken.getsockname()[1]}",
        }.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.mark.usefixtures("nobody")
def test_clips_in_a_store_that_is_not_there_are_unavailable() -> None:
    recipe = tiny_recipe("s3://films")
    with pytest.raises(UnavailableError, match="reach s3://films/clips/train: gave up after"):
        ensure_sources(recipe, on_clips=lambda *_: None)


@pytest.mark.s3
@pytest.mark.usefixtures("s3")
def test_clips_in_a_bucket_that_is_not_there_are_the_users_error() -> None:
    recipe = tiny_recipe("s3://no-such-bucket")
    with pytest.raises(UserError, match="bucket no-such-bucket does not exist"):
        ensure_sources(recipe, on_clips=lambda *_: None)


@pytest.mark.s3
def test_a_stream_outlives_throttling_resets_and_cut_bodies(
    s3: S3Store, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_source(bucket, {SHAPE: 12})
    with fault_proxy(s3.port) as proxy:
        for name, value in s3.environment(url=proxy.url).items():
            monkeypatch.setenv(name, value)
        index = Index.open(bucket)
        for number, fault in enumerate(
            (
                Fault("status", times=2, match=b"GET "),
                Fault("reset", times=1, match=b"GET ", after_bytes=900),
                Fault("truncate", times=1, match=b"GET ", after_bytes=900),
            )
        ):
            proxy.set(fault)
            stream = Stream(
                alone(index),
                seed=0,
                batch=12,
                rank=0,
                world_size=1,
                cache_dir=str(tmp_path / f"cache-{number}"),
            )
            batch = stream.next()
            stream.close()
            assert proxy.hits == fault.times
            assert sorted(batch.keys) == [f"clip-{row:03d}" for row in range(12)]
            for key, arrays in zip(batch.keys, batch.samples, strict=True):
                number_of = int(key.removeprefix("clip-"))
                assert (arrays["frames"] == frames_of(number_of, SHAPE)).all()


def test_reading_clips_imports_no_torch() -> None:
    program = (
        "import sys\n"
        "import orchestrator.data.sources, orchestrator.data.stream\n"
        "print([one for one in ('torch', 'ray', 'boto3', 'sklearn', 'av') if one in sys.modules])"
    )
    root = Path(__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert said.stdout == "[]\n"
