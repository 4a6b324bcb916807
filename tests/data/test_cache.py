"""Shards on local disk: fetched once a node, kept within a budget."""

import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

import pytest
import xxhash

from orchestrator.data.cache import ShardCache
from orchestrator.errors import UserError
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.store import open_store
from tests.data.clips import CountingStore

SIZE = 1000
READERS = 4


@pytest.fixture
def store() -> CountingStore:
    store = open_store(f"memory://{uuid4().hex}")
    for name in "abc":
        store.put(f"{name}.tar", name.encode() * SIZE)
    return CountingStore(store)


def open_cache(
    store: CountingStore,
    folder: Path,
    *,
    shards: int = 10,
    hashes: Mapping[str, str] = MappingProxyType({}),
) -> ShardCache:
    return ShardCache(store, folder=str(folder), budget_bytes=shards * SIZE, hashes=hashes)


def copies(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob("*/*.tar")}


def test_shard_is_fetched_once_and_read_in_parts(store: CountingStore, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path)
    assert cache.read("a.tar", offset=10, size=3) == b"aaa"
    assert cache.read("a.tar", offset=SIZE - 2, size=9) == b"aa"
    assert open_cache(store, tmp_path).read("a.tar", offset=0, size=1) == b"a"  # the next process
    assert store.reads == {"a.tar": 1}


def test_ranks_of_a_node_fetch_a_shard_once(store: CountingStore, tmp_path: Path) -> None:
    together = threading.Barrier(READERS)
    caches = [open_cache(store, tmp_path) for _ in range(READERS)]

    def read(cache: ShardCache) -> bytes:
        together.wait()
        return cache.read("b.tar", offset=0, size=SIZE)

    with ThreadPoolExecutor(READERS) as pool:
        assert set(pool.map(read, caches)) == {b"b" * SIZE}
    assert store.reads == {"b.tar": 1}


def test_shard_used_longest_ago_makes_room(store: CountingStore, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path, shards=2)
    cache.read("a.tar", offset=0, size=1)
    cache.read("b.tar", offset=0, size=1)
    for path in copies(tmp_path).values():
        os.utime(path, (1.0, 1.0))
    cache.read("a.tar", offset=0, size=1)  # used again: b is the older one now
    cache.read("c.tar", offset=0, size=1)
    assert set(copies(tmp_path)) == {"a.tar", "c.tar"}
    assert cache.read("b.tar", offset=0, size=1) == b"b"
    assert store.reads == {"a.tar": 1, "b.tar": 2, "c.tar": 1}


def test_budget_is_for_all_sources_of_a_node(store: CountingStore, tmp_path: Path) -> None:
    other = CountingStore(open_store(f"memory://{uuid4().hex}"))
    other.put("a.tar", b"x" * SIZE)
    open_cache(store, tmp_path, shards=1).read("a.tar", offset=0, size=1)
    assert open_cache(other, tmp_path, shards=1).read("a.tar", offset=0, size=1) == b"x"
    (kept,) = tmp_path.glob("*/*.tar")
    assert kept.read_bytes() == b"x" * SIZE


def test_shard_above_the_budget_is_read_all_the_same(store: CountingStore, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path, shards=0)
    assert cache.read("a.tar", offset=0, size=2) == b"aa"
    assert cache.read("b.tar", offset=0, size=2) == b"bb"
    assert set(copies(tmp_path)) == {"b.tar"}


def test_rest_of_a_rank_that_died_is_not_read(store: CountingStore, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path)
    cache.read("a.tar", offset=0, size=1)
    copy = copies(tmp_path)["a.tar"]
    copy.unlink()
    copy.with_suffix(".part").write_bytes(b"half")
    assert cache.read("a.tar", offset=0, size=SIZE) == b"a" * SIZE
    assert not copy.with_suffix(".part").exists()


def test_forgotten_shard_is_fetched_again(store: CountingStore, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path)
    cache.read("a.tar", offset=0, size=1)
    cache.forget("a.tar")
    cache.forget("a.tar")
    cache.read("a.tar", offset=0, size=1)
    assert store.reads == {"a.tar": 2}


def test_shards_of_equal_name_are_kept_apart(tmp_path: Path) -> None:
    stores = [CountingStore(open_store(f"memory://{uuid4().hex}")) for _ in range(2)]
    for number, store in enumerate(stores):
        store.put("a.tar", b"%d" % number)
    read = [open_cache(store, tmp_path).read("a.tar", offset=0, size=1) for store in stores]
    assert read == [b"0", b"1"]


class OnceDamaged(CountingStore):
    """A store whose first answer has a flipped bit."""

    def get(self, key: str) -> bytes:
        data = super().get(key)
        return data if self.reads[key] > 1 else bytes([data[0] ^ 1]) + data[1:]


def test_shard_that_arrives_damaged_is_fetched_once_more(
    store: CountingStore, tmp_path: Path
) -> None:
    damaged = OnceDamaged(store)
    cache = open_cache(damaged, tmp_path, hashes={"a.tar": xxhash.xxh64_hexdigest(b"a" * SIZE)})
    assert cache.read("a.tar", offset=0, size=SIZE) == b"a" * SIZE
    assert damaged.reads == {"a.tar": 2}


def test_shard_that_stays_damaged_is_named_and_not_kept(
    store: CountingStore, tmp_path: Path
) -> None:
    cache = open_cache(store, tmp_path, hashes={"a.tar": "0" * 16})
    with pytest.raises(UserError, match=rf"^{store.uri}/a\.tar is damaged: xxh64=.*wanted 0000"):
        cache.read("a.tar", offset=0, size=1)
    assert store.reads == {"a.tar": 2}
    assert copies(tmp_path) == {}
    assert cache.read("b.tar", offset=0, size=1) == b"b"


def test_shards_in_folders_are_kept_apart(store: CountingStore, tmp_path: Path) -> None:
    store.put("x/a.tar", b"1")
    store.put("x_a.tar", b"2")
    cache = open_cache(store, tmp_path)
    assert [cache.read(name, offset=0, size=1) for name in ("x/a.tar", "x_a.tar")] == [b"1", b"2"]


def test_shards_of_long_names_are_kept_apart(store: CountingStore, tmp_path: Path) -> None:
    folder = "\u6620" * 60  # nine bytes each where a URL quotes them
    names = [f"{folder}/{number}.tar" for number in range(2)]
    for number, name in enumerate(names):
        store.put(name, str(number).encode())
    cache = open_cache(store, tmp_path)
    assert [cache.read(name, offset=0, size=1) for name in names] == [b"0", b"1"]
    assert len(copies(tmp_path)) == 2


def test_missing_shard_is_named(store: CountingStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"d\.tar: no such object"):
        open_cache(store, tmp_path).read("d.tar", offset=0, size=1)


def test_folder_that_cannot_be_made_is_the_users_error(
    store: CountingStore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"data\.cache_dir: .*/file/.*: Not a directory, wanted"):
        open_cache(store, tmp_path / "file")
