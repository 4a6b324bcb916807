"""What the file systems behind fsspec raise, as our errors, without importing their packages."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from orchestrator.errors import UserError
from orchestrator.storage.errors import (
    NotFoundError,
    PastEndError,
    RefusedError,
    TransientError,
)

_CLIENTS = ("adlfs", "aiohttp", "azure", "gcsfs", "google", "requests")
_PASSING = (408, 409, 425, 429)
_REFUSED = (401, 403)
_NO_LOGIN = (  # said without a status
    "ClientAuthenticationError",
    "CredentialUnavailableError",
    "DefaultCredentialsError",
    "RefreshError",
)
_FORBIDDEN = "Forbidden"  # how gcsfs begins the text of a plain OSError


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Maps what a file system raises to our errors.

    gcsfs has an HttpError with a ``code``, aiohttp a ClientResponseError with a ``status``, azure
    an HttpResponseError with a ``status_code``; without one of these the request failed on its
    way. Their texts may hold a signed URL and are not repeated.

    Args:
        where: URI of the object, for the message.

    Raises:
        TransientError: throttled, reset, cut short or timed out.
        NotFoundError: no such object.
        PastEndError: no such part of it.
        UserError: refused, or asked in a way that no retry will mend.
        FileExistsError: as it came.
    """
    try:
        yield
    except FileExistsError:
        raise
    except FileNotFoundError:
        raise NotFoundError(f"{where}: no such object") from None
    except PermissionError:
        raise RefusedError(f"{where}: permission denied") from None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise UserError(f"{where}: {error.strerror or type(error).__name__}") from None
    except (TransientError, UserError):
        raise
    except Exception as error:
        known = _of_client(error, where=where)
        if known is None:
            raise
        raise known from None


def _of_client(error: Exception, *, where: str) -> Exception | None:
    """Our error for a client's; None if it is no client's."""
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    name = type(error).__name__
    if not isinstance(error, OSError) and modules.isdisjoint(_CLIENTS):
        return None
    status = _status(error)
    if status == 404:
        return NotFoundError(f"{where}: no such object")
    if status in _REFUSED or (isinstance(error, OSError) and str(error).startswith(_FORBIDDEN)):
        return RefusedError(f"{where}: the store refused these credentials ({status or name})")
    if status == 416:
        return PastEndError(f"{where}: the store answered {status}")
    if status == 412:
        return FileExistsError(where)
    if status is not None and status < 500 and status not in _PASSING and status >= 400:
        return UserError(f"{where}: the store answered {status}")
    if status is not None:
        return TransientError(f"the store answered {status}")
    if any(kind.__name__ in _NO_LOGIN for kind in type(error).__mro__):
        return UserError(f"{where}: no credentials that the store takes ({name})")
    reason = error.strerror if isinstance(error, OSError) else None
    return TransientError(f"{name}: {reason or 'cannot talk to the store'}")


def _status(error: Any) -> int | None:
    """The HTTP status that an error carries, under the name its package gives it."""
    for name in ("status_code", "status", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int) or (isinstance(status, str) and status.isdecimal()):
            return int(status)
    return None
