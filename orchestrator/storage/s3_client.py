"""boto3 clients, made when they are first needed in a process, and what they go by."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import botocore.session
from boto3.session import Session
from botocore.awsrequest import AWSPreparedRequest
from botocore.config import Config

from orchestrator.errors import UserError

Environment = tuple[tuple[str, str], ...]

READ_S = 30.0  # longest silence of a store, as a rule
_CONNECT_S = 10.0  # also the longest pause in the sending of a body
_NEVER_SENT = "GetObjectTorrent"  # an operation that nobody asks for


@dataclass(frozen=True)
class Address:
    """Where and how boto3 sends the requests for one bucket.

    Args:
        url: of the bucket, in its path or in its host name, without a last slash.
        region: what requests are signed for.
    """

    url: str
    region: str


class _CaughtError(Exception):
    """A request that is not sent."""

    def __init__(self, request: AWSPreparedRequest) -> None:
        super().__init__(request.url)
        self.request = request


def environment() -> Environment:
    """What boto3 goes by."""
    names = (name for name in os.environ if name.startswith("AWS_"))
    return tuple(sorted((name, os.environ.get(name, "")) for name in names))


@cache
def client(_pid: int, environment: Environment, *, read_s: float) -> Any:
    """One client per process: a forked child must not share its parent's connections.

    The bucket is in the path of a custom endpoint's URLs, unless the profile says otherwise.

    Args:
        _pid: this process.
        environment: what ``environment()`` is now.
        read_s: longest silence of the store while its answer is waited for.

    Raises:
        UserError: if the endpoint, or the file of certificates, is none.
        BotoCoreError: if the profile is none.
    """
    core = botocore.session.get_session()
    roots = core.get_config_variable("ca_bundle")
    if roots and not Path(roots).is_file():
        raise UserError(f"AWS_CA_BUNDLE: {roots}: no such file, wanted certificates as PEM")
    names = dict(environment)
    is_custom = bool(names.get("AWS_ENDPOINT_URL_S3") or names.get("AWS_ENDPOINT_URL"))
    has_style = "addressing_style" in (core.get_scoped_config().get("s3") or {})
    config = Config(
        connect_timeout=min(_CONNECT_S, read_s),
        read_timeout=read_s,
        retries={"mode": "standard", "total_max_attempts": 1},
        s3={"addressing_style": "path"} if is_custom and not has_style else {},
        max_pool_connections=32,
    )
    try:
        made = Session(botocore_session=core).client("s3", config=config)
    except ValueError:  # its text may hold what the variable holds
        raise UserError(
            "AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL: not an endpoint, wanted http[s]://host[:port]"
        ) from None
    made.meta.events.register(f"before-send.s3.{_NEVER_SENT}", _catch)
    return made


def address_of(s3: Any, *, bucket: str) -> Address:
    """Where the client sends what it asks of a bucket.

    Endpoint variables, profiles, dual stack, host or path style and the region of a bucket that
    has redirected it all decide this: so a request is made as far as its sending, and read.
    """
    try:
        s3.get_object_torrent(Bucket=bucket, Key="k")
    except _CaughtError as caught:
        url = urlsplit(caught.request.url)
        signature = caught.request.headers["Authorization"]
    else:
        raise AssertionError(f"{_NEVER_SENT} was sent")
    credential = str(signature, "ascii") if isinstance(signature, bytes) else str(signature)
    region = credential.partition("Credential=")[2].split("/")[2]
    path = url.path.removesuffix("/k")
    return Address(url=f"{url.scheme}://{url.netloc}{path}", region=region)


def _catch(request: AWSPreparedRequest, **_: object) -> None:
    raise _CaughtError(request)
