"""An object that is handed on piece by piece, as it comes."""

import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

from orchestrator.storage.errors import TransientError
from orchestrator.storage.limit import Limit

T = TypeVar("T")
Begin = Callable[[], Callable[[bytes], object]]  # called for every try; what it gives takes pieces

_PIECE_BYTES = 2**20


class Pieces:
    """Hands pieces on until the operation is over.

    A thread that ``bounded`` left behind may read on for a while: whoever took the pieces has
    closed the file by then, so it must not hand on more.

    Args:
        begin: where they go.
    """

    def __init__(self, begin: Begin) -> None:
        self._begin = begin
        self._lock = threading.Lock()
        self._is_over = False

    def read(self, answer: dict[str, Any], *, limit: Limit) -> None:
        """Hands on the body of an answer of ``get_object``, from its first byte to its last.

        Raises:
            TransientError: if it ends too early, or the operation is over.
        """
        size = answer["ContentLength"]
        limit.expect(size)
        done = 0
        with closing(answer["Body"]) as body:
            take = self._while_it_lasts(self._begin)
            for piece in iter(partial(body.read, _PIECE_BYTES), b""):
                self._while_it_lasts(partial(take, piece))
                done += len(piece)
        if done != size:
            raise TransientError(f"{done} of {size} bytes came")

    def stop(self) -> None:
        """No piece is handed on from now on."""
        with self._lock:
            self._is_over = True

    def _while_it_lasts(self, call: Callable[[], T]) -> T:
        with self._lock:
            if self._is_over:
                raise TransientError("its time was up")
            return call()
