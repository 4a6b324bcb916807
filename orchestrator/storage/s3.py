"""A store in an S3 bucket, through boto3.

Whole objects by ``get_object``: four times cheaper per byte than a transfer manager, five times
cheaper than s3fs.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, NoCredentialsError
from botocore.exceptions import ConnectionError as BotoConnectionError
from urllib3.exceptions import HTTPError

from orchestrator.errors import UserError
from orchestrator.storage.errors import NotFoundError, TransientError
from orchestrator.storage.retry import retrying

T = TypeVar("T")

_MISSING = ("404", "NoSuchKey", "NotFound")
_TAKEN = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict")
_REFUSED = ("401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_CHECK_S = 8.0


class S3Store:
    """Objects below ``s3://bucket/prefix``.

    Credentials, region and endpoint come from the standard chain (AWS_* variables, profiles).
    """

    def __init__(self, uri: str) -> None:
        parts = urlsplit(uri)
        self._uri = uri
        self._bucket = parts.netloc
        self._prefix = parts.path.strip("/")

    @property
    def uri(self) -> str:
        """``s3://bucket/prefix``."""
        return self._uri

    def get(self, key: str) -> bytes:
        """A whole object; a body that breaks off is fetched again."""
        return self._call("get", key, lambda s3, name: _body(s3, self._bucket, name))

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        """A part of an object."""
        span = f"bytes={start}-{start + length - 1}"
        return self._call("get", key, lambda s3, name: _body(s3, self._bucket, name, Range=span))

    def put(self, key: str, data: bytes) -> None:
        """Writes a whole object; the server checks its CRC."""
        self._call(
            "put", key, lambda s3, name: s3.put_object(Bucket=self._bucket, Key=name, Body=data)
        )

    def put_new(self, key: str, data: bytes) -> bool:
        """Conditional put (If-None-Match).

        A put whose answer was lost is told from another writer's by reading the object back.
        """

        def write(s3: Any, name: str) -> bool:
            try:
                s3.put_object(Bucket=self._bucket, Key=name, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if _code(error) in _TAKEN:
                    return False
                raise
            return True

        return self._call("put", key, write) or self.get(key) == data

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            self._call("head", key, lambda s3, name: s3.head_object(Bucket=self._bucket, Key=name))
        except NotFoundError:
            return False
        return True

    def list(self, prefix: str) -> list[str]:
        """Keys that start with ``prefix``, all pages."""
        below = f"{self._prefix}/" if self._prefix else ""

        def pages(s3: Any, name: str) -> list[str]:
            paginator = s3.get_paginator("list_objects_v2")
            return sorted(
                item["Key"].removeprefix(below)
                for page in paginator.paginate(Bucket=self._bucket, Prefix=below + prefix)
                for item in page.get("Contents", ())
            )

        return self._call("list", prefix, pages)

    def delete(self, key: str) -> None:
        """Removes an object."""
        self._call("delete", key, lambda s3, name: s3.delete_object(Bucket=self._bucket, Key=name))

    def delete_prefix(self, prefix: str) -> None:
        """Removes every object below ``prefix``."""
        for key in self.list(prefix):
            self.delete(key)

    def check(self) -> None:
        """Asks for the bucket, with little patience."""
        self._call(
            "reach",
            "",
            lambda s3, _: s3.head_bucket(Bucket=self._bucket),
            missing=f"bucket {self._bucket} does not exist",
            total_s=_CHECK_S,
        )

    def _call(
        self,
        verb: str,
        key: str,
        call: Callable[[Any, str], T],
        *,
        missing: str = "no such object",
        total_s: float = 60.0,
    ) -> T:
        name = "/".join(part for part in (self._prefix, key) if part)
        where = f"s3://{self._bucket}/{name}"

        def once() -> T:
            with _translated(where, missing=missing):
                return call(_client(os.getpid()), name)

        return retrying(once, what=f"{verb} {where}", total_s=total_s)


@cache
def _client(_pid: int) -> Any:
    """One client per process: a forked child must not share its parent's connections."""
    return boto3.session.Session().client(
        "s3",
        config=Config(
            connect_timeout=5,
            read_timeout=30,
            retries={"mode": "standard", "total_max_attempts": 1},
            s3={"addressing_style": "path"} if _is_custom() else {},
            max_pool_connections=32,
        ),
    )


def _is_custom() -> bool:
    return bool(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))


def _body(s3: Any, bucket: str, name: str, **options: str) -> bytes:
    answer = s3.get_object(Bucket=bucket, Key=name, **options)
    data: bytes = answer["Body"].read()
    if len(data) != answer["ContentLength"]:
        raise TransientError(f"{len(data)} of {answer['ContentLength']} bytes came")
    return data


@contextmanager
def _translated(where: str, *, missing: str) -> Iterator[None]:
    """Maps what boto3 raises to our errors; a message never holds a credential."""
    try:
        yield
    except ClientError as error:
        code = _code(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code == "NoSuchBucket":
            raise UserError(f"{where}: the bucket does not exist") from None
        if code in _MISSING:
            raise NotFoundError(f"{where}: {missing}") from None
        if code in _REFUSED:
            raise UserError(f"{where}: the store refused these credentials ({code})") from None
        if status >= 500 or status in (408, 409, 429) or code in ("SlowDown", "RequestTimeout"):
            raise TransientError(f"the store answered {status} {code}") from None
        raise UserError(f"{where}: the store answered {status} {code}") from None
    except NoCredentialsError:
        raise UserError(f"{where}: no credentials, wanted AWS_ACCESS_KEY_ID or a profile") from None
    except (BotoConnectionError, HTTPClientError, HTTPError, OSError) as error:
        raise TransientError(f"{type(error).__name__}: cannot talk to the store") from None
    except BotoCoreError as error:
        raise TransientError(type(error).__name__) from None


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
