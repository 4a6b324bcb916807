"""What other clouds' clients raise, as our errors: stand-ins for theirs, in a memory store."""

import os
import secrets
import threading
from collections.abc import Callable
from typing import Any

import fsspec
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


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The next calls of all stores raise what this is given."""
    opened = fsspec_store._opened

    def fail(*errors: Exception) -> None:
        queue = list(errors)

        def failing(pid: int, uri: str) -> tuple[Any, str]:
            files, root = opened(pid, uri)
            return Failing(files, queue), root

        monkeypatch.setattr(fsspec_store, "_opened", failing)

    return fail


@pytest.mark.parametrize("error", PASSING, ids=lambda error: type(error).__name__)
def test_what_passes_is_tried_again(
    store: FsspecStore, fail: Callable[..., None], error: Exception
) -> None:
    store.put("a", b"data")
    fail(error, error)
    assert store.get("a") == b"data"
    fail(*[error] * 20)
    with pytest.raises(UnavailableError, match=r"get memory://.*/a: gave up after 20") as caught:
        store.get("a")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("error", "text"), USERS)
def test_what_the_user_must_mend_is_one_line(
    store: FsspecStore, fail: Callable[..., None], error: Exception, text: str
) -> None:
    fail(error)
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
def test_a_missing_object_is_named(
    store: FsspecStore, fail: Callable[..., None], error: Exception
) -> None:
    fail(error)
    with pytest.raises(NotFoundError, match=r"place/a: no such object"):
        store.get("a")


def test_a_defect_is_not_taken_for_the_stores(
    store: FsspecStore, fail: Callable[..., None]
) -> None:
    fail(KeyError("ours"))
    with pytest.raises(KeyError, match="ours"):
        store.get("a")


def test_put_new_is_refused_by_a_status_too(store: FsspecStore, fail: Callable[..., None]) -> None:
    fail(stand_in("HttpError", module="gcsfs.retry", code=412))
    assert not store.put_new("a", b"data")


def test_put_new_whose_answer_was_lost_has_won(
    store: FsspecStore, fail: Callable[..., None]
) -> None:
    store.put("a", b"data")  # what a first try would have left
    fail(PASSING[0])
    assert store.put_new("a", b"data")
    fail(PASSING[0])
    assert not store.put_new("a", b"other")


def test_a_file_system_that_hangs_is_given_up(
    store: FsspecStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    store.put("a", b"data")
    monkeypatch.setattr("orchestrator.storage.limit.TOTAL_S", 0.05)
    kind = fsspec.get_filesystem_class("memory")
    monkeypatch.setattr(kind, "cat_file", lambda *_: never.wait())
    with pytest.raises(UnavailableError, match="no whole answer came in time"):
        store.get("a")
    never.set()


def test_a_part_behind_the_end_is_empty(store: FsspecStore, fail: Callable[..., None]) -> None:
    store.put("a", b"data")
    fail(stand_in("HttpError", module="gcsfs.retry", code=416))
    assert store.get_range("a", start=9, length=4) == b""


def test_deleting_what_another_has_deleted_is_done(store: FsspecStore) -> None:
    store.put("a", b"data")
    kind = fsspec.get_filesystem_class("memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "isfile", lambda *_: True)
        store.delete("never there")
    assert store.list("") == ["a"]


def test_a_forked_child_has_a_file_system_of_its_own(
    store: FsspecStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gcsfs refuses to be used in a child of the process that made it."""
    made: list[str] = []
    monkeypatch.setattr(
        "fsspec.core.url_to_fs",
        lambda uri, whole=fsspec.core.url_to_fs: made.append(uri) or whole(uri),
    )
    store.put("a", b"data")
    store.put("a", b"data")
    child = os.fork()
    if not child:
        store.put("a", b"data")
        os._exit(len(made))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    assert made == [store.uri]
