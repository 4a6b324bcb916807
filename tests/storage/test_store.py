"""Every store keeps the same promises: folder, memory, S3."""

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.folder import FolderStore
from orchestrator.storage.probe import honours_put_new
from orchestrator.storage.store import Store, join_uri, open_store
from tests.s3store import S3Store

KINDS = ["folder", "file_uri", "memory", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "folder":
            return str(tmp_path / "a place")
        case "file_uri":
            return (tmp_path / "a place").as_uri()
        case "memory":
            return f"memory://{secrets.token_hex(4)}/place"
        case _:
            return join_uri(request.getfixturevalue("bucket"), "some/place")


@pytest.fixture
def store(uri: str) -> Store:
    return open_store(uri)


on_every_store = pytest.mark.parametrize("uri", KINDS, indirect=True)
on_real_stores = pytest.mark.parametrize(
    "uri", ["folder", pytest.param("s3", marks=pytest.mark.s3)], indirect=True
)


@on_every_store
def test_what_is_put_is_got(store: Store) -> None:
    store.put("a/b.bin", b"one")
    store.put("a/b.bin", b"another")
    assert store.get("a/b.bin") == b"another"
    store.put("empty", b"")
    assert store.get("empty") == b""


@on_every_store
def test_an_object_comes_in_pieces(store: Store) -> None:
    for body in (b"", b"0123456789", bytes(range(256)) * 10_000):
        store.put("body", body)
        pieces: list[bytes] = []
        store.get_in_pieces("body", lambda taken=pieces: taken.append)
        assert b"".join(pieces) == body
    with pytest.raises(NotFoundError, match=r"place/no/such\.bin"):
        store.get_in_pieces("no/such.bin", lambda: pieces.append)


@on_every_store
def test_a_range_is_a_part_and_ends_with_the_object(store: Store) -> None:
    store.put("digits", b"0123456789")
    assert store.get_range("digits", start=3, length=4) == b"3456"
    assert store.get_range("digits", start=8, length=4) == b"89"
    assert store.get_range("digits", start=20, length=4) == b""
    assert store.get_range("digits", start=3, length=0) == b""


@on_every_store
def test_listing_takes_any_prefix(store: Store) -> None:
    for key in ("b", "a/2", "a/10", "a/sub/x", "ab"):
        store.put(key, b"x")
    assert store.list("") == ["a/10", "a/2", "a/sub/x", "ab", "b"]
    assert store.list("a/") == ["a/10", "a/2", "a/sub/x"]
    assert store.list("a") == ["a/10", "a/2", "a/sub/x", "ab"]
    assert store.list("a/s") == ["a/sub/x"]
    assert store.list("none/") == []


@on_every_store
def test_a_listing_says_how_large_objects_are_and_that_one_is_new(store: Store) -> None:
    store.put("a/b", b"four")
    store.put("c", b"")
    first = store.entries("")
    assert [(entry.key, entry.size) for entry in first] == [("a/b", 4), ("c", 0)]
    assert store.entries("a") == [store.entry("a/b")]
    store.put("a/b", b"more bytes")
    assert store.entry("a/b").size == 10
    assert store.entry("a/b").tag != first[0].tag
    assert store.entry("c") == first[1]
    with pytest.raises(NotFoundError, match="no/such"):
        store.entry("no/such")


@on_every_store
def test_a_missing_object_is_named(store: Store) -> None:
    with pytest.raises(NotFoundError, match=r"place/no/such\.bin"):
        store.get("no/such.bin")
    with pytest.raises(NotFoundError, match=r"place/no/such\.bin"):
        store.get_range("no/such.bin", start=0, length=1)
    assert not store.exists("no/such.bin")


@on_every_store
def test_deleting_is_idempotent_and_by_prefix(store: Store) -> None:
    for key in ("a/1", "a/2", "ab", "c"):
        store.put(key, b"x")
    store.delete("c")
    store.delete("c")
    store.delete_prefix("a/")
    store.delete_prefix("none/")
    assert store.list("") == ["ab"]
    assert store.exists("ab")
    store.delete_prefix("a")
    assert store.list("") == []


@on_every_store
def test_put_new_leaves_what_is_there(store: Store) -> None:
    assert store.put_new("marker", b"first")
    assert not store.put_new("marker", b"second")
    assert not store.put_new("marker", b"first")
    assert store.get("marker") == b"first"


@on_real_stores
@pytest.mark.parametrize("same", [True, False])
def test_one_of_many_writers_wins(store: Store, *, same: bool) -> None:
    store.put("warm", b"")
    for turn in range(2):
        data = [b"equal" if same else str(writer).encode() for writer in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda one, turn=turn: store.put_new(f"lease-{turn}", one), data))
        assert won.count(True) == 1
        assert store.get(f"lease-{turn}") == data[won.index(True)]


@on_every_store
def test_put_new_is_found_honest(store: Store) -> None:
    assert honours_put_new(store)
    assert store.list("") == []


@on_every_store
def test_a_reachable_place_passes_the_check(store: Store) -> None:
    store.check()


@on_every_store
def test_an_object_on_this_machine_can_be_read_where_it_lies(store: Store) -> None:
    store.put("a/b", b"123")
    path = store.local("a/b")
    assert (path is not None) == isinstance(store, FolderStore)
    assert path is None or path.read_bytes() == b"123"
    assert store.local("a") is None
    assert store.local("a/c") is None


@on_every_store
def test_a_place_is_found_again_by_its_name(uri: str) -> None:
    open_store(uri).put("x", b"1")
    assert open_store(uri + "/").get("x") == b"1"


class Overwriting:
    """A store whose server ignores the condition of a conditional put."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def put_new(self, key: str, data: bytes) -> bool:
        self._store.put(key, data)
        return True


def test_a_store_that_overwrites_is_found_out(tmp_path: Path) -> None:
    assert not honours_put_new(Overwriting(open_store(str(tmp_path))))  # type: ignore[arg-type]


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(UserError, match="nope://x"):
        open_store("nope://x/y")


def test_a_bucket_must_be_named() -> None:
    with pytest.raises(UserError, match="wanted s3://bucket/prefix"):
        open_store("s3:///prefix")


def test_a_password_in_a_uri_is_refused_and_not_repeated() -> None:
    for uri in (
        "s3://someone:hunter2@bucket/prefix",  # secret-scan: ok
        "az://films/a?sig=hunter2",
    ):
        with pytest.raises(UserError, match="wanted credentials in the environment") as refused:
            open_store(uri)
        assert "hunter2" not in str(refused.value)


@pytest.mark.s3
def test_a_whole_bucket_is_a_place_too(s3: S3Store) -> None:
    store = open_store(f"s3://{s3.bucket}")
    store.put("whole/a", b"1")
    assert store.list("whole/") == ["whole/a"]
    assert store.get("whole/a") == b"1"
