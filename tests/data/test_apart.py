"""A few samples read by themselves: their bytes alone, checked like all others."""

import pytest

from orchestrator.data.apart import read_apart
from orchestrator.data.bad import BadSampleError
from orchestrator.data.index import Index
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.store import Store
from tests.data.clips import CountingStore, flip_bit, frames_of, write_source

SHAPE = (9, 16, 16)


class Ranges(CountingStore):
    """Counts what is read in parts; whole objects are not to be had."""

    def __init__(self, store: Store, *, damaged: int = 0) -> None:
        super().__init__(store)
        self.bytes = 0
        self._damaged = damaged

    def get(self, key: str) -> bytes:
        raise AssertionError(f"{key} was read whole")

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        data = super().get_range(key, start=start, length=length)
        self.bytes += len(data)
        self._damaged -= 1
        return data if self._damaged < 0 else bytes(len(data))


@pytest.fixture
def index() -> Index:
    return write_source("memory://apart", {SHAPE: 8})


def test_only_the_samples_own_bytes_are_fetched(index: Index) -> None:
    store = Ranges(index.store)
    index.store = store  # type: ignore[assignment]
    sample, arrays = read_apart(index, 5)
    assert (arrays["frames"] == frames_of(5, SHAPE)).all()
    assert store.reads == {sample.shard: 1}
    assert store.bytes == next(one.size for one in sample.members if one.ext == "npz")


def test_a_damaged_sample_is_fetched_once_more(index: Index) -> None:
    index.store = Ranges(index.store, damaged=1)  # type: ignore[assignment]
    _, arrays = read_apart(index, 5)
    assert (arrays["frames"] == frames_of(5, SHAPE)).all()


def test_one_that_stays_damaged_is_named(index: Index) -> None:
    sample = index.sample(5)
    flip_bit(index.store, sample.shard, offset=sample.members[0].offset + 100)
    with pytest.raises(BadSampleError, match=r"shard-000001\.tar: clip-005\.npz is damaged"):
        read_apart(index, 5)


def test_a_missing_shard_is_named(index: Index) -> None:
    index.store.delete(index.sample(5).shard)
    with pytest.raises(NotFoundError, match=r"shard-000001\.tar"):
        read_apart(index, 5)
