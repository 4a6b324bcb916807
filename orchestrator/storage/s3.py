"""A store in an S3 bucket: whole objects through boto3, parts of them through obstore.

``get_object`` is four times cheaper per byte than a transfer manager, five times cheaper than
s3fs; for a short range obstore is ten times cheaper than both.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from orchestrator.errors import UserError
from orchestrator.storage.entry import Entry
from orchestrator.storage.errors import NotFoundError, RefusedError, TransientError
from orchestrator.storage.limit import Limit, bounded
from orchestrator.storage.pieces import Begin, Pieces
from orchestrator.storage.retry import retrying
from orchestrator.storage.s3_client import READ_S, client, environment
from orchestrator.storage.s3_errors import code_of, translated
from orchestrator.storage.s3_ranges import UnfitError, read_range
from orchestrator.storage.s3_upload import Body, goes_in_parts, put_in_parts
from orchestrator.storage.uri import check_key

T = TypeVar("T")

_TAKEN = ("412", "PreconditionFailed")
_CHECK_S = 8.0  # for all tries of a check
_CHECK_READ_S = 4.0  # for one of them
_PAGE_S = 10.0  # of a list: a page has a thousand keys
_UPLOADS = 3  # of one object, if its last request is answered too late
_WRITES = ("put", "delete")


class S3Store:
    """Objects below ``s3://bucket/prefix``.

    Credentials, region and endpoint come from the standard chain (AWS_* variables, profiles).

    An operation with all its tries is over within 90 s, and a second more for every MiB that it
    moves, and ten more for every page of a list; a check within 8 s. A failed upload in parts
    takes up to 8 s beyond, to clear its parts away, and a write that is refused as many, to find
    out why. Within its time a body that moves slowly is not cut off; one that rests for 30 s,
    or 10 s on its way up, is tried again.
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._uri = uri
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/")
        if not self._bucket:
            raise UserError(f"{uri}: no bucket, wanted s3://bucket/prefix")

    @property
    def uri(self) -> str:
        """``s3://bucket/prefix``."""
        return self._uri

    def get(self, key: str) -> bytes:
        """A whole object; a body that breaks off is fetched again."""
        return self._get(key, limit=Limit())

    def _get(self, key: str, *, limit: Limit) -> bytes:
        return self._call(
            "get", key, lambda s3, name: _body(s3, self._bucket, name, limit=limit), limit=limit
        )

    def get_in_pieces(self, key: str, begin: Begin) -> None:
        """A whole object as it comes: memory of its size would cost more than to read it."""
        limit = Limit()
        pieces = Pieces(begin)

        def read(s3: Any, name: str) -> None:
            pieces.read(s3.get_object(Bucket=self._bucket, Key=name), limit=limit)

        try:
            self._call("get", key, read, limit=limit)
        finally:
            pieces.stop()

    def local(self, key: str) -> Path | None:
        """Never: objects are elsewhere."""
        return None

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        """A part of an object."""
        if length == 0:
            return b""
        limit = Limit(num_bytes=length)

        def read(s3: Any, name: str) -> bytes:
            try:
                return read_range(s3, self._bucket, name, start=start, length=length)
            except UnfitError:
                return _part(s3, self._bucket, name, start=start, length=length, limit=limit)

        return self._call("get", key, read, limit=limit)

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Writes a whole object; the server checks its CRC.

        A large one goes up in parts, some at once, each tried again by itself; what a process
        that is killed leaves of it is seen by no reader (a lifecycle rule of the bucket that
        aborts incomplete uploads deletes it).
        """
        limit = Limit(num_bytes=len(data))
        if goes_in_parts(data):
            upload = partial(self._call, "put", key)
            retrying(
                lambda: put_in_parts(upload, memoryview(data), bucket=self._bucket, limit=limit),
                what=f"put {self._uri}/{key}",
                attempts=_UPLOADS,
                limit=limit,
            )
            return

        def write(s3: Any, name: str) -> None:
            s3.put_object(Bucket=self._bucket, Key=name, Body=Body(data, limit=limit))

        self._call("put", key, write, limit=limit)

    def put_new(self, key: str, data: bytes) -> bool:
        """Conditional put (If-None-Match).

        A put whose answer was lost may have been made all the same: what the next try finds there
        is then read back.
        """
        limit = Limit(num_bytes=2 * len(data))
        tries = 0

        def write(s3: Any, name: str) -> bool:
            nonlocal tries
            tries += 1
            body = Body(data, limit=limit)
            try:
                s3.put_object(Bucket=self._bucket, Key=name, Body=body, IfNoneMatch="*")
            except ClientError as error:
                if code_of(error) in _TAKEN:
                    return False
                raise
            return True

        is_new = self._call("put", key, write, limit=limit)
        return is_new or (tries > 1 and self._get(key, limit=limit) == data)

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            self._call("head", key, lambda s3, name: s3.head_object(Bucket=self._bucket, Key=name))
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str) -> list[str]:
        """Keys that start with ``prefix``, all pages."""
        return [entry.key for entry in self.entries(prefix)]

    def entry(self, key: str) -> Entry:
        """Size and ETag of an object."""
        found = self._call(
            "head", key, lambda s3, name: s3.head_object(Bucket=self._bucket, Key=name)
        )
        return Entry(key=key, size=found["ContentLength"], tag=found["ETag"])

    def entries(self, prefix: str) -> Sequence[Entry]:
        """As ``list``, with sizes and ETags; each page is tried again by itself."""
        below = f"{self._prefix}/" if self._prefix else ""
        found: list[Entry] = []
        limit = Limit()
        more: dict[str, str] = {}
        while True:
            page = self._page(prefix, limit=limit, **more)
            found += (
                Entry(key=item["Key"].removeprefix(below), size=item["Size"], tag=item["ETag"])
                for item in page.get("Contents", ())
            )
            if not page.get("IsTruncated"):
                return sorted(found, key=lambda entry: entry.key)
            mark = page.get("NextContinuationToken")
            if mark is None or mark == more.get("ContinuationToken"):
                raise UserError(f"{self._uri}: the store's list does not go on after {len(found)}")
            more = {"ContinuationToken": mark}
            limit.prolong(_PAGE_S)

    def _page(self, prefix: str, *, limit: Limit, **more: str) -> dict[str, Any]:
        def page(s3: Any, name: str) -> dict[str, Any]:
            return s3.list_objects_v2(Bucket=self._bucket, Prefix=below + prefix, **more)

        below = f"{self._prefix}/" if self._prefix else ""
        return self._call("list", prefix, page, limit=limit)

    def delete(self, key: str) -> None:
        """Removes an object."""
        self._call("delete", key, lambda s3, name: s3.delete_object(Bucket=self._bucket, Key=name))

    def delete_prefix(self, prefix: str) -> None:
        """Removes every object below ``prefix``."""
        for key in self.list(prefix):
            self.delete(key)

    def check(self) -> None:
        """Asks for the bucket, with little patience."""
        with translated(self._uri, missing=""):  # before the time runs: it takes seconds of work
            client(os.getpid(), environment(), read_s=_CHECK_READ_S)
        self._call(
            "reach",
            "",
            lambda s3, _: s3.head_bucket(Bucket=self._bucket),
            missing=f"bucket {self._bucket} does not exist",
            limit=Limit(_CHECK_S),
            read_s=_CHECK_READ_S,
        )

    def _call(
        self,
        verb: str,
        key: str,
        call: Callable[[Any, str], T],
        *,
        missing: str = "no such object",
        limit: Limit | None = None,
        read_s: float = READ_S,
    ) -> T:
        check_key(key, uri=self._uri)
        name = "/".join(part for part in (self._prefix, key) if part)
        where = f"s3://{self._bucket}/{name}"
        limit = limit or Limit()

        def once() -> T:
            with translated(where, missing=missing):
                return call(client(os.getpid(), environment(), read_s=read_s), name)

        def bounded_once() -> T:
            return bounded(once, limit=limit)

        try:
            return retrying(bounded_once, what=f"{verb} {where}", limit=limit)
        except RefusedError:
            if verb in _WRITES and self._may_read(name):
                raise UserError(
                    f"{where}: cannot {verb}: these credentials may read here but not write"
                ) from None
            raise

    def _may_read(self, name: str) -> bool:
        """Whether the store lets these credentials look at what they may not write."""

        def look() -> bool:
            try:
                client(os.getpid(), environment(), read_s=_CHECK_READ_S).head_object(
                    Bucket=self._bucket, Key=name
                )
            except ClientError as error:
                return code_of(error) == "404"
            except (BotoCoreError, HTTPError, OSError):
                return False
            return True

        try:
            return bounded(look, limit=Limit(_CHECK_S))
        except TransientError:
            return False


def _body(s3: Any, bucket: str, name: str, *, limit: Limit) -> bytes:
    return _read(s3.get_object(Bucket=bucket, Key=name), limit=limit)


def _part(s3: Any, bucket: str, name: str, *, start: int, length: int, limit: Limit) -> bytes:
    span = f"bytes={start}-{start + length - 1}"
    try:
        answer = s3.get_object(Bucket=bucket, Key=name, Range=span)
    except ClientError as error:
        if code_of(error) in ("416", "InvalidRange"):
            return b""  # as a file that is read past its end
        raise
    seen = answer.get("ContentRange", "the whole object")
    if not seen.startswith(f"bytes {start}-"):
        answer["Body"].close()
        raise UserError(f"s3://{bucket}/{name}: the store gave {seen}, wanted {span}")
    return _read(answer, limit=limit)


def _read(answer: dict[str, Any], *, limit: Limit) -> bytes:
    limit.expect(answer["ContentLength"])
    data: bytes = answer["Body"].read()
    if len(data) != answer["ContentLength"]:
        raise TransientError(f"{len(data)} of {answer['ContentLength']} bytes came")
    return data
