"""What boto3 raises, as our errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    SSLError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from urllib3.exceptions import HTTPError

from orchestrator.errors import UserError
from orchestrator.storage.errors import NotFoundError, RefusedError, TransientError

_MISSING = ("404", "NoSuchKey", "NoSuchUpload", "NotFound")
_REFUSED = (401, 403)
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
_UNKNOWN = (501, 505)  # to the store: it will not learn it
_PASSING = (  # answered with a 4xx
    "BadDigest",
    "IncompleteBody",
    "RequestTimeout",
    "SlowDown",
    "XAmzContentChecksumMismatch",
)


@contextmanager
def translated(where: str, *, missing: str) -> Iterator[None]:
    """Maps what boto3 raises to our errors; a message never holds a credential.

    Args:
        where: URI of the object, for the message.
        missing: what to say when it is not there.

    Raises:
        TransientError: throttled, reset, cut short or timed out.
        NotFoundError: no such object.
        UserError: refused, or asked in a way that no retry will mend.
    """
    try:
        yield
    except ClientError as error:
        raise _of_answer(error, where=where, missing=missing) from None
    except NoCredentialsError:
        raise UserError(f"{where}: no credentials, wanted AWS_ACCESS_KEY_ID or a profile") from None
    except (BotoConnectionError, HTTPClientError, HTTPError, OSError) as error:
        raise _of_network(error, where=where) from None
    except (FlexibleChecksumError, IncompleteReadError) as error:
        raise TransientError(f"{type(error).__name__}: the body came damaged") from None
    except (CredentialRetrievalError, MetadataRetrievalError) as error:
        raise TransientError(f"{type(error).__name__}: no answer from their provider") from None
    except BotoCoreError as error:  # a profile, region, bucket name that cannot be
        raise UserError(f"{where}: {' '.join(str(error).split())}") from None


def code_of(error: ClientError) -> str:
    """The store's word for an error, or the status where there is none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _of_network(error: Exception, *, where: str) -> Exception:
    if isinstance(error, SSLError) and _UNTRUSTED in str(error):
        return UserError(
            f"{where}: the store's certificate is not trusted, wanted its authority's in the file "
            "that AWS_CA_BUNDLE names"
        )
    inner = error.kwargs.get("error") if isinstance(error, HTTPClientError) else None
    if isinstance(inner, TransientError):  # raised by a body that is read, and wrapped
        return inner
    return TransientError(f"{type(error).__name__}: cannot talk to the store")


def _of_answer(error: ClientError, *, where: str, missing: str) -> Exception:
    code = code_of(error)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return UserError(f"{where}: the bucket does not exist")
    if code in _MISSING:
        return NotFoundError(f"{where}: {missing}")
    if status in _REFUSED:
        return RefusedError(f"{where}: the store refused these credentials ({code})")
    if (status >= 500 and status not in _UNKNOWN) or status in (408, 409, 429) or code in _PASSING:
        return TransientError(f"the store answered {status} {code}")
    return UserError(f"{where}: the store answered {status} {code}")
