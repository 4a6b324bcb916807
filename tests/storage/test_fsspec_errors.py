"""What other clouds' clients raise, as our errors: stand-ins for theirs, in a memory store."""

import secrets
import threading
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.errors import UnavailableError, UserError
from orchestrator.storage import fsspec_store
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.fsspec_store import FsspecStore

SIGNED = "https://films.blob/a?sig=hunter2"


def stand_in(name: str, *, module: str, base: type = Exception, **values: Any) -> Exception:
    """An error as a package that is not installed would raise it."""
    kind: Any = type(name, (base,), {"__module__": module, **values})
    return kind(SIGNED)


AZURE = stand_in("AzureError", module="azure.core.exceptions")
PASSING = [
    stand_in("HttpError", module="gcsfs.retry", code=503),
    stand_in("HttpError", module="gcsfs.retry", code="429"),
    stand_in("ChecksumError", module="gcsfs.retry"),
    stand_in("ServerDisconnectedError", module="aiohttp.client_exceptions"),
    stand_in("ClientPayloadError", module="aiohttp.client_exceptions"),
    stand_in("ClientResponseError", module="aiohttp.client_exceptions", status=502),
    stand_in("ServiceResponseError", module="azure.core.exceptions", base=type(AZURE)),
    stand_in("HttpResponseError", module="azure.core.exceptions", status_code=500),
    stand_in("TransportError", module="google.auth.exceptions"),
    TimeoutError(SIGNED),
    ConnectionResetError(SIGNED),
]
USERS = [
    (stand_in("HttpError", module="gcsfs.retry", code=401), "refused these credentials"),
    (OSError(f"Forbidden: {SIGNED}"), "refused these credentials"),
    (stand_in("HttpError", module="gcsfs.retry", code=400), "answered 400"),
    (
        stand_in("ClientResponseError", module="aiohttp.client_exceptions", status=403),
        "refused these credentials",
    ),
    (
        stand_in("ClientAuthenticationError", module="azure.core.exceptions", status_code=None),
        "no credentials",
    ),
    (stand_in("DefaultCredentialsError", module="google.auth.exceptions"), "no credentials"),
    (PermissionError(SIGNED), "permission denied"),
]


class Failing:
    """A memory file system, some of whose calls fail first."""

    def __init__(self, files: Any, errors: list[Exception]) -> None:
        self._files = files
        self._errors = errors

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._files, name)
        return self._failing(real) if callable(real) else real

    def _failing(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self._errors:
                raise self._errors.pop(0)
            return real(*args, **options)

        return call


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FsspecStore:
    waits = fsspec_store.retrying
    monkeypatch.setattr(
        fsspec_store,
        "retrying",
        lambda call, **options: waits(call, **options, sleep=lambda _: None),
    )
    return FsspecStore(f"memory://{secrets.token_hex(4)}/place")


def fail(store: FsspecStore, *errors: Exception) -> None:
    """The store's next calls raise these."""
    store._files = Failing(store._files, list(errors))


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_what_passes_is_tried_again(store: FsspecStore, error: Exception) -> None:
    store.put("a", b"data")
    fail(store, error, error)
    assert store.get("a") == b"data"
    fail(store, *[error] * 20)
    with pytest.raises(UnavailableError, match=r"get memory://.*/a: gave up after 20") as caught:
        store.get("a")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("error", "text"), USERS)
def test_what_the_user_must_mend_is_one_line(
    store: FsspecStore, error: Exception, text: str
) -> None:
    fail(store, error)
    with pytest.raises(UserError, match=rf"memory://.*/place/a: .*{text}") as caught:
        store.put("a", b"data")
    assert caught.value.exit_code == 2
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        stand_in("HttpError", module="gcsfs.retry", code=404),
        stand_in("ResourceNotFoundError", module="azure.core.exceptions", status_code=404),
    ],
)
def test_a_missing_object_is_named(store: FsspecStore, error: Exception) -> None:
    fail(store, error)
    with pytest.raises(NotFoundError, match=r"place/a: no such object"):
        store.get("a")


def test_a_defect_is_not_taken_for_the_stores(store: FsspecStore) -> None:
    fail(store, KeyError("ours"))
    with pytest.raises(KeyError, match="ours"):
        store.get("a")


def test_put_new_is_refused_by_a_status_too(store: FsspecStore) -> None:
    fail(store, stand_in("HttpError", module="gcsfs.retry", code=412))
    assert not store.put_new("a", b"data")


def test_put_new_whose_answer_was_lost_has_won(store: FsspecStore) -> None:
    store.put("a", b"data")  # what a first try would have left
    fail(store, PASSING[0])
    assert store.put_new("a", b"data")
    fail(store, PASSING[0])
    assert not store.put_new("a", b"other")


def test_a_file_system_that_hangs_is_given_up(
    store: FsspecStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    store.put("a", b"data")
    monkeypatch.setattr("orchestrator.storage.limit.TOTAL_S", 0.05)
    monkeypatch.setattr(type(store._files), "cat_file", lambda *_: never.wait())
    with pytest.raises(UnavailableError, match="no whole answer came in time"):
        store.get("a")
    never.set()
