"""Parts of objects, by obstore: what it is told, and what it says."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from orchestrator.errors import UnavailableError, UserError
from orchestrator.storage import s3_client, s3_ranges
from orchestrator.storage.errors import NotFoundError, TransientError
from orchestrator.storage.s3_ranges import UnfitError, read_range
from orchestrator.storage.store import open_store
from tests.fault_proxy import Fault, FaultProxy
from tests.s3store import ACCESS_KEY, SECRET_KEY, S3Store

BODY = bytes(range(256)) * 400
HEAD = b'HTTP/1.1 206 Partial Content\r\nETag: "x"\r\nConnection: close\r\n'


def boto3_client() -> Any:
    """What the environment leads to."""
    return s3_client.client(os.getpid(), s3_client.environment(), read_s=s3_client.READ_S)


@pytest.fixture
def answering(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Answers, in turn, of the server that the environment leads to."""
    answers: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, suppress(OSError):
                client.recv(65536)
                client.sendall(answers.pop(0))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        yield answers
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.s3
def test_ranges_do_not_go_through_boto3(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(bucket)
    store.put("a b%c+d#?", BODY)
    monkeypatch.setattr("orchestrator.storage.s3._body", None)
    assert store.get_range("a b%c+d#?", start=1000, length=9000) == BODY[1000:10000]


@pytest.mark.s3
def test_a_key_with_an_empty_part_is_read_all_the_same(bucket: str) -> None:
    store = open_store(bucket)
    store.put("a//b", BODY)
    assert store.get_range("a//b", start=1, length=4) == BODY[1:5]


@pytest.mark.s3
@pytest.mark.timeout(60)
def test_a_forked_child_reads_ranges(bucket: str) -> None:
    store = open_store(bucket)
    store.put("a", BODY)
    assert store.get_range("a", start=0, length=4) == BODY[:4]
    child = os.fork()
    if not child:
        is_same = store.get_range("a", start=1000, length=9000) == BODY[1000:10000]
        os._exit(0 if is_same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.get_range("a", start=4, length=4) == BODY[4:8]


@pytest.mark.s3
def test_endpoint_and_credentials_may_come_from_a_profile(
    s3: S3Store, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(bucket)
    store.put("a", BODY)
    for name in s3.environment():
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(
        f"[profile films]\nregion = us-east-1\nendpoint_url = {s3.url}\n"
        f"aws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "films")
    assert store.get_range("a", start=1, length=4) == BODY[1:5]


@pytest.mark.s3
def test_the_general_endpoint_variable_is_honoured(
    s3: S3Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(bucket)
    store.put("a", BODY)
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    assert store.get_range("a", start=1, length=4) == BODY[1:5]


def test_amazons_own_addresses_are_those_of_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    for bucket, url in (
        ("films", "https://films.s3.eu-west-1.amazonaws.com"),
        ("dotted.films", "https://s3.eu-west-1.amazonaws.com/dotted.films"),
    ):
        address = s3_client.address_of(boto3_client(), bucket=bucket)
        assert (address.url, address.region) == (url, "eu-west-1")


def test_the_bucket_is_in_a_custom_endpoints_path_unless_the_profile_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text("[profile films]\ns3 =\n  addressing_style = virtual\n")
    for name, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": "http://store:9000",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
    }.items():
        monkeypatch.setenv(name, value)
    address = s3_client.address_of(boto3_client(), bucket="films")
    assert address.url == "http://store:9000/films"
    monkeypatch.setenv("AWS_PROFILE", "films")
    address = s3_client.address_of(boto3_client(), bucket="films")
    assert address.url == "http://films.store:9000"


@pytest.mark.s3
def test_errors_are_those_of_boto3(
    s3: S3Store, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(bucket)
    store.put("a", BODY)
    with pytest.raises(NotFoundError, match=r"/none: no such object"):
        store.get_range("none", start=0, length=4)
    with pytest.raises(UserError, match="the bucket does not exist"):
        open_store("s3://no-such-bucket/runs").get_range("a", start=0, length=4)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2")
    wanted = r"refused these credentials \(SignatureDoesNotMatch\)"
    with pytest.raises(UserError, match=wanted) as caught:
        store.get_range("a", start=0, length=4)
    assert "hunter2" not in str(caught.value)


@pytest.mark.s3
@pytest.mark.parametrize("kind", ["status", "refuse", "truncate", "reset"])
def test_a_range_is_asked_for_again(proxy: FaultProxy, bucket: str, kind: str) -> None:
    store = open_store(bucket)
    store.put("a", BODY)
    proxy.set(Fault(kind, times=2, match=b"GET ", after_bytes=5000))  # type: ignore[arg-type]
    assert store.get_range("a", start=1000, length=9000) == BODY[1000:10000]
    assert proxy.hits == 2


@pytest.mark.s3
def test_a_short_body_is_seen(answering: list[bytes]) -> None:
    short = HEAD + b"Content-Range: bytes 0-9/100\r\nContent-Length: 4\r\n\r\n0123"
    answering += [short, short]  # a short one is looked at again: the object may end there
    with pytest.raises(TransientError, match="4 of 10 bytes came"):
        read_range(boto3_client(), "films", "a", start=0, length=10)


@pytest.mark.s3
def test_a_bucket_in_another_region_is_left_to_boto3(answering: list[bytes]) -> None:
    bare = b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>"
    told = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    for answer in (bare, told + body):
        answering.append(answer)
        with pytest.raises(UnfitError):
            read_range(boto3_client(), "films", "a", start=0, length=10)
        assert s3_ranges._client.cache_info().currsize == 0


@pytest.mark.s3
def test_a_region_that_boto3_was_redirected_to_is_that_of_later_ranges(
    answering: list[bytes],
) -> None:
    moved = b"HTTP/1.1 301 Moved\r\nContent-Length: 0\r\nConnection: close\r\n"
    part = HEAD + b"Content-Range: bytes 0-3/100\r\nContent-Length: 4\r\n\r\n0123"
    there = b"x-amz-bucket-region: eu-west-1\r\n\r\n"
    answering += [moved + b"\r\n", moved + there, part, part]
    store = open_store("s3://films")
    assert store.get_range("a", start=0, length=4) == b"0123"  # obstore, boto3, boto3
    assert s3_client.address_of(boto3_client(), bucket="films").region == "eu-west-1"
    assert store.get_range("a", start=0, length=4) == b"0123"  # obstore
    assert answering == []


@pytest.mark.s3
@pytest.mark.parametrize(
    ("head", "seen"),
    [
        (b"HTTP/1.1 200 OK\r\n", "the whole object"),
        (b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 5-9/20\r\n", "bytes 5-9/20"),
    ],
)
def test_another_part_than_was_asked_for_is_refused(
    answering: list[bytes], head: bytes, seen: str
) -> None:
    head += b'ETag: "x"\r\nConnection: close\r\nContent-Length: 5\r\n\r\n'
    answering += [head + b"01234"] * 2  # to obstore, to boto3
    with pytest.raises(UserError, match=rf"s3://films/a: the store gave {seen}, wanted bytes=0-4"):
        open_store("s3://films").get_range("a", start=0, length=5)


@pytest.mark.s3
def test_an_answer_that_is_none_is_told_with_its_code(answering: list[bytes]) -> None:
    answering += [b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"]
    with pytest.raises(ClientError, match="418"):
        read_range(boto3_client(), "films", "a", start=0, length=10)


def test_a_store_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.storage.limit.TOTAL_S", 0.1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listened on
        port = taken.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
        with pytest.raises(UnavailableError, match=r"get s3://films/a: gave up"):
            open_store("s3://films").get_range("a", start=0, length=1)
