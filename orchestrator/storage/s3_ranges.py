"""Parts of S3 objects by obstore: a tenth of the processor's time that boto3 takes for one."""

import os
import re
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
import obstore
from boto3.session import Session
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.exceptions import BaseError
from obstore.store import S3Store

from orchestrator.storage.errors import TransientError
from orchestrator.storage.s3_client import address_of

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Config

_CONNECT = timedelta(seconds=10)
_READ = timedelta(seconds=30)  # longest silence
_WHOLE = timedelta(hours=1)  # of a request that nobody waits for any more
_FRESH = timedelta(minutes=9)  # botocore renews credentials that have less than ten left
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_BOTO3_SAYS_WHY = ("NotPartial", "UnexpectedRange", "NoContentRange", "InvalidCertificate")
_ELSEWHERE = ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException")


class UnfitError(Exception):
    """Not for obstore: boto3 can do it, or says what is wrong."""


@dataclass(frozen=True)
class _Client:
    store: S3Store
    credentials: Credentials


def read_range(s3: Any, bucket: str, name: str, *, start: int, length: int) -> bytes:
    """A part of an object; fewer bytes where the object ends before, none behind its end.

    Args:
        s3: the boto3 client that the bucket's address and credentials are taken from.
        bucket: of the object.
        name: key of the object in its bucket.
        start: first byte.
        length: bytes, at least 1.

    Raises:
        ClientError: as boto3 would, when the store answers with an error.
        BotoCoreError: as boto3 would, without credentials.
        TransientError: if the body is shorter than announced, or the network fails.
        UnfitError: in a process forked from one that uses obstore, whose threads it lacks; for a
            key with an empty part; when the bucket is in another region; when the answer is not
            the part that was asked for; when the store's certificate is not trusted.
    """
    if _owner() != os.getpid():
        raise UnfitError("forked")
    ranges = _client(s3, bucket)
    ranges.credentials.get_frozen_credentials()  # renewed here, where an error has its own type
    try:
        data = obstore.get_range(ranges.store, name, start=start, length=length).to_bytes()
        if len(data) == length:
            return data
        return _read_to_end(ranges.store, name, start=start, length=length)
    except ValueError:
        raise UnfitError("a key that obstore does not take") from None
    except (BaseError, FileNotFoundError) as error:
        return _nothing_or_error(str(error))


def _read_to_end(store: S3Store, name: str, *, start: int, length: int) -> bytes:
    """Again, with a look at what was announced: the object ends, or the body was cut short."""
    answer = obstore.get(store, name, options={"range": (start, start + length)})
    data = answer.bytes().to_bytes()
    first, end = answer.range
    if len(data) != end - first:
        raise TransientError(f"{len(data)} of {end - first} bytes came")
    return data


@cache
def _owner() -> int:
    """The process that asked first: the threads of obstore are its, and no forked child's."""
    return os.getpid()


@cache
def _client(s3: Any, bucket: str) -> _Client:
    """Made when it is needed; endpoint, region and credentials are boto3's."""
    session = botocore.session.get_session()
    address = address_of(s3, bucket=bucket)
    credentials = Boto3CredentialProvider(Session(botocore_session=session), ttl=_FRESH)
    options: ClientConfig = {
        "allow_http": address.url.startswith("http://"),
        "connect_timeout": _CONNECT,
        "read_timeout": _READ,
        "timeout": _WHOLE,
    }
    roots = session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
    if roots:
        options["root_certificate"] = Path(roots).read_bytes()
    config: S3Config = {
        "aws_endpoint_url_s3": address.url,  # goes before the variable of this name
        "virtual_hosted_style_request": True,  # the bucket is in the URL, wherever it is there
        "region": address.region,
    }
    store = S3Store(
        bucket,
        config=config,
        client_options=options,
        retry_config={"max_retries": 0},
        credential_provider=credentials,
    )
    return _Client(store=store, credentials=credentials.credentials)


def _nothing_or_error(text: str) -> bytes:
    """What the words of obstore stand for: it has no codes."""
    status, code = _STATUS.search(text), _CODE.search(text)
    if status is None and any(word in text for word in _BOTO3_SAYS_WHY):
        raise UnfitError("not the part that was asked for, or a certificate")
    if status is None and "redirect" not in text:
        raise TransientError("obstore: cannot talk to the store")
    if status is None or (code is not None and code[1] in _ELSEWHERE):
        _client.cache_clear()  # boto3 finds the right one, and the next client asks it
        raise UnfitError("the bucket is in another region")
    if status[1] == "416":
        return b""  # as a file that is read past its end
    raise ClientError(
        {
            "Error": {"Code": code[1] if code else status[1]},
            "ResponseMetadata": {"HTTPStatusCode": int(status[1])},
        },
        "GetObject",
    )
