"""What boto3 raises, as our errors: by the status, and by the store's word for it."""

import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
    NoCredentialsError,
)

from orchestrator.errors import UserError
from orchestrator.storage.errors import NotFoundError, RefusedError, TransientError
from orchestrator.storage.s3_errors import translated

WHERE = "s3://films/a"


def answer(status: int, code: str) -> ClientError:
    told = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(told, "PutObject")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (answer(503, "SlowDown"), TransientError, "503 SlowDown"),
        (answer(500, "InternalError"), TransientError, "500 InternalError"),
        (answer(429, "429"), TransientError, "429"),
        (answer(409, "ConditionalRequestConflict"), TransientError, "409"),
        (answer(400, "RequestTimeout"), TransientError, "400 RequestTimeout"),
        (answer(400, "BadDigest"), TransientError, "400 BadDigest"),
        (EndpointConnectionError(endpoint_url="http://key:hunter2@x"), TransientError, "cannot"),
        (ConnectionResetError(), TransientError, "cannot talk"),
        (HTTPClientError(error=TransientError("its time was up")), TransientError, "^its time"),
        (answer(404, "NoSuchKey"), NotFoundError, f"{WHERE}: gone"),
        (answer(404, "404"), NotFoundError, f"{WHERE}: gone"),
        (answer(404, "NoSuchBucket"), UserError, f"{WHERE}: the bucket does not exist"),
        (answer(403, "403"), RefusedError, "refused these credentials"),
        (answer(403, "AccountProblem"), RefusedError, r"credentials \(AccountProblem\)"),
        (answer(401, "Unauthorized"), RefusedError, "refused these credentials"),
        (answer(400, "ExpiredToken"), UserError, f"{WHERE}: the store answered 400 ExpiredToken"),
        (answer(501, "NotImplemented"), UserError, "answered 501 NotImplemented"),
        (NoCredentialsError(), UserError, "no credentials, wanted AWS_ACCESS_KEY_ID"),
    ],
    ids=str,
)
def test_what_passes_is_told_from_what_the_user_must_mend(
    error: Exception, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text) as caught, translated(WHERE, missing="gone"):
        raise error
    assert type(caught.value) is kind
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
