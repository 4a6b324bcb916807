"""goodput.jsonl in the run's folder, written now and then beside everything else."""

import threading
import time
from collections.abc import Callable

from orchestrator.cascade.goodput_rows import Row, from_lines, to_lines
from orchestrator.errors import FencedError, UnavailableError, UserError
from orchestrator.storage.attempts import newest_attempt
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.store import Store

KEY = "goodput.jsonl"
EVERY_S = 10.0
_SHARE = 20  # of a write's own time that passes before the next one, at least


def read_rows(store: Store) -> tuple[list[Row], int]:
    """All rows of a run's starts, and how many lines are damaged and left out."""
    try:
        return from_lines(store.get(KEY))
    except NotFoundError:
        return [], 0


def write_rows(store: Store, rows: list[Row], *, attempt: int) -> None:
    """Replaces the rows of one start and keeps those of the others.

    Raises:
        FencedError: if the run was started again since.
    """
    newest = newest_attempt(store)
    if newest > attempt:
        raise FencedError(f"{store.uri}/{KEY}: start {newest} of the run goes on with it")
    others = [row for row in read_rows(store)[0] if row.attempt != attempt]
    store.put(KEY, to_lines([*others, *rows]))


class RowsKeeper:
    """A thread that writes rows where they have changed; nobody waits for it but ``close``.

    A store that is away is tried again the next time.

    Args:
        store: the run's folder.
        attempt: the start whose rows they are.
        rows: gives them as they are now.
        every_s: at most this often.
    """

    def __init__(
        self,
        store: Store,
        *,
        attempt: int,
        rows: Callable[[], list[Row]],
        every_s: float = EVERY_S,
    ) -> None:
        self._store = store
        self._attempt = attempt
        self._rows = rows
        self._every_s = every_s
        self._changed = threading.Event()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._keep, name="goodput", daemon=True)
        self._thread.start()

    def touch(self) -> None:
        """Says that rows have changed; written at the next turn."""
        self._changed.set()

    def flush(self) -> None:
        """Says that what they hold now must not be lost; written at once."""
        self._changed.set()
        self._wake.set()

    def close(self, timeout_s: float) -> str | None:
        """Writes what has changed, in at most ``timeout_s``.

        Returns:
            Why the file is behind; None if it is not.
        """
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return f"{self._store.uri}/{KEY}: no answer in {timeout_s:g} s"
        return self._trouble

    def _keep(self) -> None:
        pause_s = self._every_s
        is_last = False
        while not is_last:
            self._wake.wait(pause_s)
            self._wake.clear()
            is_last = self._closing.is_set()
            if not self._changed.is_set():
                continue
            self._changed.clear()
            started_s = time.monotonic()
            try:
                write_rows(self._store, self._rows(), attempt=self._attempt)
                self._trouble = None
            except FencedError as error:
                self._trouble = str(error)
                return
            except (UnavailableError, UserError) as error:  # away, full, not permitted
                self._trouble = str(error)
                self._changed.set()
            pause_s = max(self._every_s, _SHARE * (time.monotonic() - started_s))
