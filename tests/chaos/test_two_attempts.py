"""Two commands on one run: the older is fenced, wherever it wakes, and the newer ends right."""

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.storage.store import Store, open_store
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

pytestmark = [pytest.mark.chaos, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def proxy(s3: S3Store) -> Iterator[FaultProxy]:
    """Between the older one and the store; the newer one has a way of its own."""
    with fault_proxy(s3.port) as proxy:
        yield proxy


@pytest.fixture
def place(s3: S3Store, bucket: str, clips: str, tmp_path: Path) -> Place:
    place = Place(folder=tmp_path, runs=bucket, env=s3.environment())
    place.write_recipe(clips=clips)
    return place


def files(store: Store) -> dict[str, bytes]:
    return {key: store.get(key) for key in store.list("")}


# In the middle of a save, and after the last look before the COMMIT: the request itself is late.
@pytest.mark.parametrize(
    "key", ["step-00000004/rank-", "step-00000004/index.json", "step-00000004/COMMIT"]
)
@pytest.mark.parametrize("home", ["home", "other-home"])  # of the older: this machine or another
def test_the_older_one_wakes_when_the_newer_has_finished(
    s3: S3Store, proxy: FaultProxy, place: Place, undisturbed: Result, key: str, home: str
) -> None:
    head = f"PUT /{place.uri.removeprefix('s3://')}/{CHECKPOINTS}/{key}"
    proxy.set(Fault("hold", times=1, match=head.encode()))
    env = s3.environment(url=proxy.url) | {"XDG_CACHE_HOME": str(place.folder / home)}
    older = replace(place, env=env).start()
    assert proxy.was_hit.wait(LIMIT_S), str(ended(older))
    older.send_signal(signal.SIGSTOP)
    try:
        newer = ended(place.start())
        assert newer.code == 0, str(newer)
        store = open_store(place.uri)
        before = files(store)
        proxy.release()
    finally:
        older.send_signal(signal.SIGCONT)
    end = ended(older)
    assert end.code == 75, str(end)
    (line,) = [line for line in end.err.splitlines() if line.startswith("rushes: ")]
    assert "start 2 of the run goes on with it; start 1 writes no more" in line
    after = files(store)
    assert {key: after[key] for key in before} == before
    # Its files have names of their own; without a COMMIT they do not exist.
    assert all("/rank-" in key for key in after.keys() - before.keys())
    assert result_of(store) == undisturbed
    assert_each_clip_once(store)
    assert len(store.list("attempts/")) == 2
    assert_tracked(place, store, last=newer)
