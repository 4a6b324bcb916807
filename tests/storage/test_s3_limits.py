"""Every operation on a bucket ends in its time, whatever its real server holds back."""

from collections.abc import Callable

import pytest

from orchestrator.errors import UnavailableError
from orchestrator.storage import limit as limit_module
from orchestrator.storage import s3 as s3_module
from orchestrator.storage import s3_upload
from orchestrator.storage.store import Store, open_store
from tests.fault_proxy import Fault, FaultProxy, Kind
from tests.s3store import S3Store

BODY = bytes(range(256)) * 400
LARGE = BODY * 120  # 11.7 MiB
CALLS: dict[str, Callable[[Store], object]] = {
    "get": lambda store: store.get("a"),
    "pieces": lambda store: store.get_in_pieces("a", lambda: lambda piece: None),
    "range": lambda store: store.get_range("a", start=0, length=9000),
    "put": lambda store: store.put("b", BODY),
    "put_new": lambda store: store.put_new("b", BODY),
    "parts": lambda store: store.put("b", LARGE),
    "exists": lambda store: store.exists("a"),
    "entry": lambda store: store.entry("a"),
    "list": lambda store: store.list(""),
    "delete": lambda store: store.delete("a"),
    "check": lambda store: store.check(),
}
pytestmark = pytest.mark.s3


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second for an operation, however much it moves; clients must have been made before."""
    monkeypatch.setattr(limit_module, "TOTAL_S", 1.0)
    monkeypatch.setattr(limit_module, "LEAST_BYTES_PER_S", 2**60)
    for module, name in ((s3_module, "_CHECK_S"), (s3_upload, "_ABORT_S")):
        monkeypatch.setattr(module, name, 1.0)


@pytest.fixture
def store(proxy: FaultProxy, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Behind the proxy, with an object and with its clients made."""
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 * 2**20)
    store = open_store(bucket)
    store.put("a", BODY)
    store.check()
    assert store.get_range("a", start=0, length=9000) == BODY[:9000]
    return store


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *(("hang", name) for name in CALLS),
        *(("trickle", name) for name in ("get", "pieces", "put", "list")),
    ],
)
def test_an_answer_that_does_not_come_ends_the_operation(
    proxy: FaultProxy,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    name: str,
) -> None:
    hurry(monkeypatch)
    proxy.set(Fault(kind, after_bytes=20))
    with pytest.raises(UnavailableError, match=r"no whole answer came in time|its time was up"):
        CALLS[name](store)
    assert proxy.was_hit.wait(60)  # on a busy machine it may arrive after it was given up


@pytest.mark.parametrize("name", ["get", "pieces", "range"])
@pytest.mark.parametrize("kind", ["stall", "trickle"])
def test_a_body_that_is_held_back_ends_the_operation(
    proxy: FaultProxy, store: Store, monkeypatch: pytest.MonkeyPatch, kind: Kind, name: str
) -> None:
    hurry(monkeypatch)
    proxy.set(Fault(kind, match=b"GET ", after_bytes=5000))
    with pytest.raises(UnavailableError, match=r"gave up after 1 tries .* in time"):
        CALLS[name](store)


def test_a_body_goes_up_in_pieces_each_with_the_patience_of_a_socket(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one, 32 MiB would be cut off below 3.2 MiB/s."""
    pieces: list[int] = []
    read = s3_upload.Body.read

    def reading(body: s3_upload.Body, size: int | None = -1, /) -> bytes:
        piece = read(body, size)
        pieces.append(len(piece))
        return piece

    monkeypatch.setattr(s3_upload.Body, "read", reading)
    store = open_store(bucket)
    store.put("a", LARGE)
    assert 0 < max(pieces) <= 2**20
    assert store.get("a") == LARGE


def test_a_body_that_goes_up_too_slowly_is_cut_off_and_not_seen(
    proxy: FaultProxy, store: Store, s3: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_upload, "PART_BYTES", 2**30)
    hurry(monkeypatch)
    proxy.set(Fault("slow", match=b"PUT "))
    with pytest.raises(UnavailableError, match=r"put .*/b: gave up after 1 tries"):
        store.put("b", LARGE)
    place = store.uri.rpartition("/")[2]
    found = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=place)
    assert [one["Key"] for one in found["Contents"]] == [f"{place}/a"]


def test_a_list_goes_on_from_the_page_that_failed(
    proxy: FaultProxy, s3: S3Store, bucket: str
) -> None:
    keys = [f"{number:05d}" for number in range(1005)]  # a page has a thousand
    s3.put_empty(bucket.removeprefix("s3://"), keys)
    store = open_store(bucket)
    proxy.set(Fault("status", times=1, match=b"continuation-token"))
    assert store.list("") == keys
    assert proxy.heads(b"list-type=2") == 3  # the first page, the second twice
