"""Samples that cannot be read: how many a run may have, and who stands in for them."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orchestrator.errors import UserError


class BadSampleError(UserError):
    """A sample is damaged, also after it was fetched again, or cannot be decoded."""


@dataclass(frozen=True, order=True)
class BadSample:
    """A sample that could not be read.

    Attributes:
        index: digest of the index that it is in.
        row: of the index.
        key: its name there.
        why: one line that names it.
    """

    index: str
    row: int
    key: str
    why: str


class BadSamples:
    """The bad samples that a run knows of, each once; any thread may call.

    Args:
        most: of all sources together; one more ends the run.
    """

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._known: dict[tuple[str, int], BadSample] = {}
        self._new: list[BadSample] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[BadSample]:
        return iter(sorted(self._known.values()))

    def get(self, index: str, row: int) -> BadSample | None:
        """What is known of a sample; None: nothing bad."""
        return self._known.get((index, row))

    def found(self, bad: BadSample) -> None:
        """This process has met one.

        Raises:
            BadSampleError: if that is one too many; the text names it.
        """
        with self._lock:
            if (bad.index, bad.row) not in self._known:
                self._known[bad.index, bad.row] = bad
                self._new.append(bad)
        self.check(last=bad)

    def take_new(self) -> list[BadSample]:
        """Those that were found since the last call."""
        with self._lock:
            new, self._new = self._new, []
            return new

    def learn(self, others: Iterable[BadSample]) -> None:
        """Others have met these."""
        with self._lock:
            for bad in others:
                self._known.setdefault((bad.index, bad.row), bad)

    def check(self, *, last: BadSample) -> None:
        """Raises BadSampleError if there are too many; it names the ``last`` one."""
        if len(self._known) > self._most:
            raise BadSampleError(
                f"{last.why} ({len(self._known)} bad samples, wanted at most "
                f"data.bad_samples={self._most})"
            )
