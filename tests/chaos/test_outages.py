"""What a run needs goes away while it trains: the bucket for a minute, the tracker for good."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.storage.store import open_store
from tests.chaos.runs import (
    CHECKPOINTS,
    LIMIT_S,
    Place,
    Result,
    assert_each_clip_once,
    assert_tracked,
    ended,
    result_of,
)
from tests.fault_proxy import Fault, FaultProxy, fault_proxy
from tests.s3store import S3Store
from tests.tracking.test_outage import Server

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.timeout(1200)]

OUTAGE_S = 60.0


@pytest.fixture
def proxy(s3: S3Store) -> Iterator[FaultProxy]:
    with fault_proxy(s3.port) as proxy:
        yield proxy


@pytest.mark.s3
def test_a_bucket_that_is_down_for_a_minute_is_waited_for(
    s3: S3Store, proxy: FaultProxy, bucket: str, tmp_path: Path, undisturbed: Result
) -> None:
    """The clips are in it too; it goes down in the middle of a save."""
    place = Place(folder=tmp_path, runs=bucket, env=s3.environment(url=proxy.url))
    place.write_recipe(clips=f"{bucket}/clips")
    head = f"PUT /{place.uri.removeprefix('s3://')}/{CHECKPOINTS}/step-00000004/rank-"
    proxy.set(Fault("refuse", times=1, match=head.encode()))
    process = place.start()
    assert proxy.was_hit.wait(LIMIT_S), str(ended(process))
    proxy.set(Fault("refuse"))
    threading.Timer(OUTAGE_S, proxy.release).start()
    end = ended(process)
    assert end.code == 0, str(end)
    assert proxy.hits > 1
    store = open_store(place.uri)
    assert result_of(store) == undisturbed
    assert_each_clip_once(store)
    assert_tracked(place, store, last=end)


def test_a_tracker_that_is_down_for_the_whole_run_gets_it_later(
    clips: str, tmp_path: Path, undisturbed: Result
) -> None:
    server = Server(tmp_path)
    place = Place(folder=tmp_path, runs=str(tmp_path / "runs"), tracking=server.url)
    place.write_recipe(clips=clips)
    end = ended(place.start())
    assert (end.code, end.err) == (0, ""), str(end)
    assert "nothing is lost, the next start sends the rest" in end.out
    store = open_store(place.uri)
    assert result_of(store) == undisturbed
    assert_each_clip_once(store)
    try:
        server.start()
        end = ended(place.start())
        assert (end.code, end.err) == (0, ""), str(end)
        assert_tracked(place, store, last=end)
    finally:
        server.kill()
