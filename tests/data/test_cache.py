"""Shards on local disk: fetched once a node, kept within a budget."""

import multiprocessing
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import pytest
import xxhash

from orchestrator.data import cache as cache_module
from orchestrator.data.cache import ShardCache
from orchestrator.data.fetcher import Fetcher
from orchestrator.data.room import locked
from orchestrator.data.shard_files import most_open
from orchestrator.errors import UserError
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.store import Store, open_store
from tests.data.clips import CountingStore

SIZE = 1000
READERS = 4
SHARDS = 12


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
    return ShardCache(
        store,
        folder=str(folder),
        budget_bytes=shards * SIZE,
        hashes=hashes,
        sizes={f"{name}.tar": SIZE for name in "abc"},
    )


def read(cache: ShardCache, shard: str, *, offset: int = 0, size: int = 1) -> bytes:
    return cache.open(shard).read(size, offset=offset)


def wait_for_fetches() -> None:
    for thread in threading.enumerate():
        if thread.name == "fetch":
            thread.join()


def copies(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob("*/*.tar")}


def test_shard_is_fetched_once_and_read_in_parts(store: CountingStore, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path)
    assert read(cache, "a.tar", offset=10, size=3) == b"aaa"
    assert read(cache, "a.tar", offset=SIZE - 2, size=9) == b"aa"
    assert read(open_cache(store, tmp_path), "a.tar") == b"a"  # the next process
    assert store.reads == {"a.tar": 1}


def test_ranks_of_a_node_fetch_a_shard_once(store: CountingStore, tmp_path: Path) -> None:
    together = threading.Barrier(READERS)
    caches = [open_cache(store, tmp_path) for _ in range(READERS)]

    def read_together(cache: ShardCache) -> bytes:
        together.wait()
        return read(cache, "b.tar", size=SIZE)

    with ThreadPoolExecutor(READERS) as pool:
        assert set(pool.map(read_together, caches)) == {b"b" * SIZE}
    assert store.reads == {"b.tar": 1}


def test_shard_used_longest_ago_makes_room(store: CountingStore, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path, shards=2)
    read(cache, "a.tar")
    read(cache, "b.tar")
    for path in copies(tmp_path).values():
        os.utime(path, (1.0, 1.0))
    cache = open_cache(store, tmp_path, shards=2)  # the next process
    read(cache, "a.tar")  # used again: b is the older one now
    read(cache, "c.tar")
    assert set(copies(tmp_path)) == {"a.tar", "c.tar"}
    assert read(open_cache(store, tmp_path, shards=2), "b.tar") == b"b"
    assert store.reads == {"a.tar": 1, "b.tar": 2, "c.tar": 1}


def test_shard_that_made_room_is_read_on_where_it_is_open(
    store: CountingStore, tmp_path: Path
) -> None:
    cache = open_cache(store, tmp_path, shards=1)
    for name in ("a.tar", "b.tar", "a.tar", "b.tar"):
        assert read(cache, name, size=SIZE) == name[:1].encode() * SIZE
    assert set(copies(tmp_path)) == {"b.tar"}
    assert store.reads == {"a.tar": 1, "b.tar": 1}


def test_shard_that_is_read_says_so_while_it_is_open(
    store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(store, tmp_path, shards=2)
    read(cache, "a.tar")
    read(cache, "b.tar")
    for path in copies(tmp_path).values():
        os.utime(path, (1.0, 1.0))
    read(cache, "a.tar")
    assert {path.stat().st_mtime for path in copies(tmp_path).values()} == {1.0}  # not each time
    monkeypatch.setattr(cache_module, "_TOUCH_S", -1.0)  # later
    read(cache, "a.tar")
    read(cache, "c.tar")
    assert set(copies(tmp_path)) == {"a.tar", "c.tar"}


def test_shard_that_made_room_gives_its_space_back_when_nobody_reads_it(
    store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(store, tmp_path, shards=1)
    read(cache, "a.tar")
    read(cache, "b.tar")
    monkeypatch.setattr(cache_module, "_IDLE_S", -1.0)  # later
    read(cache, "c.tar")
    read(cache, "a.tar")
    assert store.reads == {"a.tar": 2, "b.tar": 1, "c.tar": 1}


def test_shards_that_made_room_keep_no_more_than_the_budget(
    store: CountingStore, tmp_path: Path
) -> None:
    store.put("d.tar", b"d" * SIZE)
    cache = open_cache(store, tmp_path, shards=1)
    for name in ("a.tar", "b.tar", "c.tar", "d.tar"):
        read(cache, name)
    read(cache, "b.tar")  # open, and used before the next one closes what is too much
    read(cache, "a.tar")
    assert store.reads == {"a.tar": 2, "b.tar": 1, "c.tar": 1, "d.tar": 1}


def test_shard_that_is_open_is_not_fetched_ahead(store: CountingStore, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path, shards=1)
    read(cache, "a.tar")
    read(cache, "b.tar")
    assert set(copies(tmp_path)) == {"b.tar"}
    cache.fetch_ahead(["a.tar"])
    wait_for_fetches()
    assert store.reads == {"a.tar": 1, "b.tar": 1}


def test_shards_that_are_wanted_soon_leave_after_finished_ones(
    store: CountingStore, tmp_path: Path
) -> None:
    read(open_cache(store, tmp_path, shards=2), "a.tar")
    cache = open_cache(store, tmp_path, shards=2)
    cache.fetch_ahead(["b.tar"])
    wait_for_fetches()
    for name, path in copies(tmp_path).items():
        os.utime(path, (1.0, 1.0) if name == "b.tar" else (2.0, 2.0))
    cache.fetch_ahead(["b.tar"])
    read(cache, "c.tar")
    assert set(copies(tmp_path)) == {"b.tar", "c.tar"}


def test_many_sources_leave_descriptors_for_others() -> None:
    assert most_open(1) == most_open(8) == 32
    assert 30 * most_open(30) <= 512
    assert most_open(9999) == 1


def test_copy_of_another_user_is_read(
    store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(file: object) -> None:
        raise PermissionError(f"{file}: not the owner")

    monkeypatch.setattr(os, "utime", denied)
    cache = open_cache(store, tmp_path)
    assert read(cache, "a.tar") == b"a"
    cache.fetch_ahead(["a.tar"])
    assert read(cache, "a.tar") == b"a"


def test_budget_is_for_all_sources_of_a_node(store: CountingStore, tmp_path: Path) -> None:
    other = CountingStore(open_store(f"memory://{uuid4().hex}"))
    other.put("a.tar", b"x" * SIZE)
    read(open_cache(store, tmp_path, shards=1), "a.tar")
    assert read(open_cache(other, tmp_path, shards=1), "a.tar") == b"x"
    (kept,) = tmp_path.glob("*/*.tar")
    assert kept.read_bytes() == b"x" * SIZE


def test_shard_above_the_budget_is_read_all_the_same(store: CountingStore, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path, shards=0)
    assert read(cache, "a.tar", size=2) == b"aa"
    assert read(cache, "b.tar", size=2) == b"bb"
    assert set(copies(tmp_path)) == {"b.tar"}


def test_rest_of_a_rank_that_died_is_not_read(store: CountingStore, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path)
    read(cache, "a.tar")
    copy = copies(tmp_path)["a.tar"]
    copy.unlink()
    copy.with_suffix(".part").write_bytes(b"half")
    assert read(open_cache(store, tmp_path), "a.tar", size=SIZE) == b"a" * SIZE
    assert not copy.with_suffix(".part").exists()


def test_rest_of_a_rank_that_died_takes_no_room(store: CountingStore, tmp_path: Path) -> None:
    read(open_cache(store, tmp_path, shards=2), "a.tar")
    part = copies(tmp_path)["a.tar"].with_name("z.part")
    part.write_bytes(b"z" * SIZE)
    read(open_cache(store, tmp_path, shards=2), "b.tar")
    assert set(copies(tmp_path)) == {"a.tar", "b.tar"}
    assert not part.exists()


def test_forgotten_shard_is_fetched_again(store: CountingStore, tmp_path: Path) -> None:
    cache = open_cache(store, tmp_path)
    damaged = cache.open("a.tar")
    for _ in range(2):  # two readers have seen the same copy: the second must not drop the new one
        assert cache.forget("a.tar", seen=damaged)
        read(cache, "a.tar")
    assert not cache.forget("a.tar", seen=cache.open("a.tar"))  # it comes so
    read(cache, "a.tar")
    assert store.reads == {"a.tar": 2}


def test_shards_of_equal_name_are_kept_apart(tmp_path: Path) -> None:
    stores = [CountingStore(open_store(f"memory://{uuid4().hex}")) for _ in range(2)]
    for number, store in enumerate(stores):
        store.put("a.tar", b"%d" % number)
    found = [read(open_cache(store, tmp_path), "a.tar") for store in stores]
    assert found == [b"0", b"1"]


class Meeting(CountingStore):
    """A store that gives each object first when so many are asked for at once.

    A copy that has to go before it is opened is asked for again.
    """

    def __init__(self, store: Store, *, readers: int) -> None:
        super().__init__(store)
        self._together = threading.Barrier(readers)

    def get(self, key: str) -> bytes:
        data = super().get(key)
        if self.reads[key] == 1:
            self._together.wait(60)
        return data


def test_threads_that_fetch_at_once_keep_the_budget(tmp_path: Path) -> None:
    store = Meeting(open_store(f"memory://{uuid4().hex}"), readers=READERS)
    names = [f"{number}.tar" for number in range(READERS)]
    for name in names:
        store.put(name, name.encode() * (SIZE // len(name)))
    caches = [open_cache(store, tmp_path, shards=2) for _ in names]
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda cache, name: read(cache, name, size=5), caches, names))
    assert found == [name.encode() for name in names]
    assert len(copies(tmp_path)) == 2


def fetch_many(uri: str, folder: str, first: int, together: Any) -> None:
    """Another process, which reads shards of its own and looks what the folder holds meanwhile."""
    cache = ShardCache(open_store(uri), folder=folder, budget_bytes=2 * SIZE, hashes={}, sizes={})
    for number in range(first, SHARDS, 2):
        together.wait(60)
        assert read(cache, f"{number}.tar", size=SIZE) == b"x" * SIZE
        assert bytes_in(Path(folder)) <= 2 * SIZE


def bytes_in(folder: Path) -> int:
    total = 0
    with locked(folder / "room", field="data.cache_dir"):  # what is written may get its name yet
        for kind in ("tar", "part"):
            for path in folder.glob(f"*/*.{kind}"):
                with suppress(FileNotFoundError):
                    total += path.stat().st_size
    return total


def test_processes_that_fetch_at_once_keep_the_budget(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "source"))
    for number in range(SHARDS):
        store.put(f"{number}.tar", b"x" * SIZE)
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(2)
    others = [
        spawn.Process(target=fetch_many, args=(store.uri, str(tmp_path / "cache"), first, together))
        for first in range(2)
    ]
    for one in others:
        one.start()
    for one in others:
        one.join()
    assert [one.exitcode for one in others] == [0, 0]


def test_shards_are_fetched_before_they_are_opened(tmp_path: Path) -> None:
    store = Meeting(open_store(f"memory://{uuid4().hex}"), readers=2)  # so both at once
    for name in "ab":
        store.put(f"{name}.tar", name.encode() * SIZE)
    cache = open_cache(store, tmp_path)
    cache.fetch_ahead(["a.tar", "b.tar", "a.tar"])
    assert [read(cache, f"{name}.tar") for name in "ab"] == [b"a", b"b"]
    assert store.reads == {"a.tar": 1, "b.tar": 1}


def test_what_nobody_foresaw_costs_no_thread_and_no_other_shard() -> None:
    done = threading.Event()
    fetched: list[str] = []

    def fetch(shard: str) -> None:
        fetched.append(shard)
        if shard == "c":
            done.set()
        raise RuntimeError("a defect")

    Fetcher(fetch, threads=1).want("abc")
    assert done.wait(20)
    assert fetched == ["a", "b", "c"]


def test_what_is_no_longer_wanted_is_not_fetched() -> None:
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()
    fetched: list[str] = []

    def fetch(shard: str) -> None:
        fetched.append(shard)
        begun.set()
        assert go_on.wait(60)
        if shard == "d":
            done.set()
        raise UserError("no such shard")  # is for who opens it

    fetcher = Fetcher(fetch, threads=1)
    fetcher.want(["a", "b"])
    assert begun.wait(60)
    fetcher.want(["c", "a"])
    fetcher.want(["c", "d"])
    go_on.set()
    assert done.wait(60)
    assert fetched == ["a", "c", "d"]


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
    assert read(cache, "a.tar", size=SIZE) == b"a" * SIZE
    assert damaged.reads == {"a.tar": 2}


def test_shard_that_stays_damaged_is_named_and_not_kept(
    store: CountingStore, tmp_path: Path
) -> None:
    cache = open_cache(store, tmp_path, hashes={"a.tar": "0" * 16})
    with pytest.raises(UserError, match=rf"^{store.uri}/a\.tar is damaged: xxh64=.*wanted 0000"):
        read(cache, "a.tar")
    assert store.reads == {"a.tar": 2}
    assert copies(tmp_path) == {}
    assert read(cache, "b.tar") == b"b"


def test_shards_in_folders_are_kept_apart(store: CountingStore, tmp_path: Path) -> None:
    store.put("x/a.tar", b"1")
    store.put("x_a.tar", b"2")
    cache = open_cache(store, tmp_path)
    assert [read(cache, name) for name in ("x/a.tar", "x_a.tar")] == [b"1", b"2"]


def test_shards_of_long_names_are_kept_apart(store: CountingStore, tmp_path: Path) -> None:
    folder = "\u6620" * 60  # nine bytes each where a URL quotes them
    names = [f"{folder}/{number}.tar" for number in range(2)]
    for number, name in enumerate(names):
        store.put(name, str(number).encode())
    cache = open_cache(store, tmp_path)
    assert [read(cache, name) for name in names] == [b"0", b"1"]
    assert len(copies(tmp_path)) == 2


def test_missing_shard_is_named(store: CountingStore, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"d\.tar: no such object"):
        read(open_cache(store, tmp_path), "d.tar")


def test_folder_that_cannot_be_made_is_the_users_error(
    store: CountingStore, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match=r"data\.cache_dir: .*/file/.*: Not a directory, wanted"):
        open_cache(store, tmp_path / "file")
