"""Whether what went wrong is for good or for now."""

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException, RestException
from requests import RequestException

from orchestrator.errors import UnavailableError, UserError
from orchestrator.tracking.sink import NotNowError, RejectedError

_NEVER = ("RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST", "INVALID_STATE")


@contextmanager
def judged(*, through_server: bool) -> Iterator[None]:
    """Turns any error into RejectedError (never) or NotNowError (try again)."""
    try:
        yield
    except (RejectedError, NotNowError):
        raise
    except MlflowException as error:
        # A proxy's error page has a status too: only MLflow itself says no for good.
        from_mlflow = isinstance(error, RestException) or not through_server
        if error.error_code == "INVALID_PARAMETER_VALUE" or (
            from_mlflow and error.error_code in _NEVER
        ):
            raise RejectedError(str(error)) from error
        raise NotNowError(str(error)) from error
    except (RequestException, UnavailableError) as error:
        raise NotNowError(repr(error)) from error
    except (UserError, FileNotFoundError, KeyError, TypeError, ValueError) as error:
        raise RejectedError(repr(error)) from error
    except Exception as error:  # the edge: an artifact store's client has errors of its own
        raise NotNowError(repr(error)) from error
