"""Pieces of a body are handed on whole, in order, and not after the operation is over."""

import io
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.storage.errors import TransientError
from orchestrator.storage.limit import Limit
from orchestrator.storage.pieces import Pieces

BODY = bytes(range(256)) * 10_000


class Answer(io.BytesIO):
    """A body that says when it is read."""

    def __init__(self, *, on_read: Callable[[], None] = lambda: None) -> None:
        super().__init__(BODY)
        self._on_read = on_read

    def read(self, size: int | None = -1, /) -> bytes:
        self._on_read()
        return super().read(size)


def answer(body: io.BytesIO, *, size: int = len(BODY)) -> dict[str, Any]:
    return {"Body": body, "ContentLength": size}


def test_a_body_is_handed_on_and_prolongs_the_time() -> None:
    taken: list[bytes] = []
    limit = Limit(0.0, clock=lambda: 0.0)
    Pieces(lambda: taken.append).read(answer(Answer()), limit=limit)
    assert b"".join(taken) == BODY
    assert len(taken) > 1
    assert limit.left_s > 2.0  # a second for every MiB


def test_a_body_that_ends_too_early_is_told() -> None:
    with pytest.raises(TransientError, match=f"{len(BODY)} of {len(BODY) + 1} bytes came"):
        Pieces(lambda: lambda _: None).read(answer(Answer(), size=len(BODY) + 1), limit=Limit())


def test_a_thread_that_was_left_behind_hands_nothing_on() -> None:
    taken: list[bytes] = []
    pieces = Pieces(lambda: taken.append)
    body = Answer(on_read=lambda: pieces.stop() if taken else None)
    with pytest.raises(TransientError, match="time was up"):
        pieces.read(answer(body), limit=Limit())
    assert len(taken) == 1
    assert body.closed
    again = Answer()
    with pytest.raises(TransientError, match="time was up"):
        pieces.read(answer(again), limit=Limit())
    assert len(taken) == 1
