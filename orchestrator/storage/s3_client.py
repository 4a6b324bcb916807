"""boto3 clients, made when they are first needed in a process, and what they go by."""

import os
from functools import cache
from typing import Any

from boto3.session import Session
from botocore.config import Config

from orchestrator.errors import UserError

Environment = tuple[tuple[str, str], ...]

READ_S = 30.0  # longest silence of a store, as a rule
_CONNECT_S = 10.0  # also the longest pause in the sending of a body


def environment() -> Environment:
    """What boto3 goes by."""
    return tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))


@cache
def client(_pid: int, environment: Environment, *, read_s: float = READ_S) -> Any:
    """One client per process: a forked child must not share its parent's connections.

    Args:
        _pid: this process.
        environment: what ``environment()`` is now.
        read_s: longest silence of the store while its answer is waited for.

    Raises:
        UserError: if the endpoint is none.
    """
    names = dict(environment)
    is_custom = bool(names.get("AWS_ENDPOINT_URL_S3") or names.get("AWS_ENDPOINT_URL"))
    config = Config(
        connect_timeout=min(_CONNECT_S, read_s),
        read_timeout=read_s,
        retries={"mode": "standard", "total_max_attempts": 1},
        s3={"addressing_style": "path"} if is_custom else {},
        max_pool_connections=32,
    )
    try:
        return Session().client("s3", config=config)
    except ValueError:  # its text may hold what the variable holds
        raise UserError(
            "AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL: not an endpoint, wanted http[s]://host[:port]"
        ) from None
