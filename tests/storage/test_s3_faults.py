"""A bucket when the network, the store or the credentials fail, on a real S3 server."""

import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import pytest

from orchestrator.errors import UnavailableError, UserError
from orchestrator.storage import s3 as s3_module
from orchestrator.storage import s3_upload
from orchestrator.storage.probe import honours_put_new
from orchestrator.storage.retry import retrying
from orchestrator.storage.store import open_store
from tests.fault_proxy import Fault, FaultProxy
from tests.s3store import READER_KEY, SECRET_KEY, S3Store

BODY = bytes(range(256)) * 400


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once; how long they wait is tested with the retry."""
    monkeypatch.setattr(s3_module, "retrying", partial(retrying, sleep=lambda _: None))


@pytest.fixture
def closed_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listened on
        yield taken.getsockname()[1]


@pytest.mark.s3
def test_throttled_calls_go_through_at_last(proxy: FaultProxy, bucket: str) -> None:
    store = open_store(bucket)
    for method, call in (
        (b"PUT ", lambda: store.put("a", BODY)),
        (b"GET ", lambda: store.get("a")),
        (b"HEAD ", lambda: store.exists("a")),
        (b"DELETE ", lambda: store.delete("a")),
    ):
        proxy.set(Fault("status", times=2, match=method))
        call()
        assert proxy.hits == 2


@pytest.mark.s3
@pytest.mark.usefixtures("no_waits")
def test_store_that_stays_busy_is_given_up(proxy: FaultProxy, bucket: str) -> None:
    proxy.set(Fault("status"))
    wanted = r"get s3://.*/a: gave up after 20 tries .* 503 SlowDown"
    with pytest.raises(UnavailableError, match=wanted) as caught:
        open_store(bucket).get("a")
    assert caught.value.exit_code == 75
    assert proxy.hits == 20


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["truncate", "reset"])
def test_body_that_breaks_off_is_fetched_again(
    proxy: FaultProxy, bucket: str, kind: Literal["truncate", "reset"]
) -> None:
    store = open_store(bucket)
    store.put("a", BODY)
    proxy.set(Fault(kind, times=2, match=b"GET ", after_bytes=5000))
    assert store.get("a") == BODY
    assert proxy.hits == 2
    proxy.set(Fault(kind, times=1, match=b"GET ", after_bytes=5000))
    assert store.get_range("a", start=1000, length=9000) == BODY[1000:10000]
    assert proxy.hits == 1
    proxy.set(Fault(kind, times=2, match=b"GET ", after_bytes=5000))
    tries: list[list[bytes]] = []

    def begin() -> Callable[[bytes], None]:
        tries.append([])
        return tries[-1].append

    store.get_in_pieces("a", begin)
    assert proxy.hits == 2
    assert len(tries) == 3
    assert b"".join(tries[-1]) == BODY


@pytest.mark.s3
def test_put_new_whose_answer_was_lost_has_won(proxy: FaultProxy, bucket: str) -> None:
    store = open_store(bucket)
    proxy.set(Fault("swallow", times=1, match=b"PUT "))
    assert store.put_new("lease", b"mine")
    assert proxy.hits == 1
    proxy.set(Fault("swallow", times=1, match=b"PUT "))
    assert not store.put_new("lease", b"theirs")
    assert store.get("lease") == b"mine"


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Data that goes up in three parts of the smallest size that S3 takes."""
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 * 2**20)
    return BODY * 120  # 11.7 MiB


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["status", "refuse", "swallow"])
@pytest.mark.parametrize("match", [b"uploads", b"partNumber=2", b"POST "])
def test_large_object_goes_up_whatever_fails_once(
    proxy: FaultProxy,
    bucket: str,
    in_parts: bytes,
    match: bytes,
    kind: Literal["status", "refuse", "swallow"],
) -> None:
    store = open_store(bucket)
    store.put("large", b"what was there before")
    proxy.set(Fault(kind, times=1, match=match))
    store.put("large", memoryview(in_parts))
    assert proxy.hits == 1
    assert store.get("large") == in_parts


@pytest.mark.s3
@pytest.mark.usefixtures("no_waits")
def test_large_object_that_fails_leaves_nothing(
    proxy: FaultProxy, s3: S3Store, bucket: str, in_parts: bytes
) -> None:
    store = open_store(bucket)
    store.put("large", b"what was there before")
    proxy.set(Fault("status", match=b"partNumber=2"))
    with pytest.raises(UnavailableError, match=r"put s3://.*/large: gave up after \d+ tries"):
        store.put("large", in_parts)
    assert store.get("large") == b"what was there before"
    assert s3.open_uploads(bucket) == []


@pytest.mark.s3
@pytest.mark.timeout(40)  # a check takes some ten seconds; other calls wait over a minute
def test_check_does_not_wait_long_for_a_store_that_hangs(proxy: FaultProxy, bucket: str) -> None:
    proxy.set(Fault("hang"))
    with pytest.raises(UnavailableError, match=r"reach s3://.*: gave up"):
        open_store(bucket).check()
    assert proxy.hits <= 3


@pytest.mark.usefixtures("no_waits")
def test_check_names_a_store_that_is_not_there(
    closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{closed_port}",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UnavailableError, match="reach s3://films/runs: gave up") as caught:
        open_store("s3://films/runs").check()
    assert caught.value.exit_code == 75
    assert "\n" not in str(caught.value)


@pytest.mark.s3
def test_missing_bucket_is_one_line(s3: S3Store) -> None:
    store = open_store("s3://no-such-bucket/runs")
    for call in (
        store.check,
        lambda: store.get("a"),
        lambda: store.put("a", b"x"),
        lambda: store.put_new("a", b"x"),
        lambda: store.list(""),
    ):
        with pytest.raises(UserError, match=r"bucket.* does not exist") as caught:
            call()
        assert "no-such-bucket" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.s3
@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_are_not_shown(
    bucket: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "hunter2-hunter2")
    store = open_store(bucket)
    for call in (store.check, lambda: store.get("a"), lambda: store.put("a", b"x")):
        with pytest.raises(UserError, match="refused these credentials") as caught:
            call()
        assert "hunter2" not in str(caught.value)
        assert SECRET_KEY not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.s3
def test_a_bucket_that_may_only_be_read_is_told_of(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(bucket)
    store.put("old", BODY)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", READER_KEY)
    store.check()
    assert store.get("old") == BODY
    assert store.get_range("old", start=1, length=4) == BODY[1:5]
    assert store.list("") == ["old"]
    for key, call in (
        ("new", lambda: store.put("new", b"x")),
        ("new", lambda: store.put_new("new", b"x")),
        ("large", lambda: store.put("large", bytes(33 * 2**20))),
        ("old", lambda: store.delete("old")),
    ):
        wanted = rf"^{bucket}/{key}: cannot (put|delete): .* may read here but not write$"
        with pytest.raises(UserError, match=wanted) as caught:
            call()
        assert caught.value.exit_code == 2
    with pytest.raises(UserError, match=r"/\.probe-\w+: cannot put: .* not write$"):
        honours_put_new(store)


@pytest.mark.parametrize("url", ["127.0.0.1:9000", "http://key:hunter2@"])
def test_endpoint_that_is_none_is_the_users_error(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL_S3") as caught:
        open_store("s3://films").check()
    assert "hunter2" not in str(caught.value)


def test_uri_without_a_bucket_is_the_users_error() -> None:
    with pytest.raises(UserError, match=r"wanted s3://bucket/prefix"):
        open_store("s3://")


@pytest.mark.s3
def test_all_pages_are_listed(s3: S3Store, bucket: str) -> None:
    store = open_store(f"{bucket}/runs")
    keys = [f"{number:05d}" for number in range(1005)]  # a page has a thousand
    s3.put_empty(bucket.removeprefix("s3://"), [f"runs/{key}" for key in keys])
    assert store.list("") == keys
    store.delete_prefix("0000")
    assert store.list("") == keys[10:]


@pytest.mark.s3
def test_writes_outlive_a_killed_server(s3: S3Store, bucket: str) -> None:
    store = open_store(bucket)
    store.put("a", BODY)
    s3.kill()
    s3.start()
    assert store.get("a") == BODY
