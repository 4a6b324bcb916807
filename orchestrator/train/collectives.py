"""The collectives of torch.distributed: the time that this rank spends in them, and the last one.

Time can be told where a collective blocks its caller (gloo). NCCL only puts it on a stream.
"""

import functools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d

from orchestrator.train.ledger import Ledger

# What blocks, by each of its names; the ``*_object`` ones are made of these. torch 2.11 has not
# got the ``*_single`` ones.
BLOCKING = (
    "all_gather",
    "all_gather_coalesced",
    "all_gather_into_tensor",
    "all_gather_single",
    "all_reduce",
    "all_reduce_coalesced",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "gather",
    "recv",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_tensor",
    "scatter",
    "send",
)


class _Timer:
    """Where the wrapped functions look for the ledger of now."""

    def __init__(self) -> None:
        self.ledger: Ledger | None = None
        self.thread: int | None = None
        self.depth = 0
        self.calls = 0
        self.wrapped: set[Any] = set()

    def idles(self) -> bool:
        """Whether the timed thread is in no collective; false as well where none is timed."""
        return self.thread is not None and self.depth == 0

    @contextmanager
    def timing(self) -> Iterator[None]:
        if threading.get_ident() != self.thread:  # the ledger is another thread's
            yield
            return
        self.depth += 1
        try:
            with nullcontext() if self.ledger is None else self.ledger.in_phase("communication"):
                yield
        finally:
            self.depth -= 1


_TIMER = _Timer()


class _TimedWork:
    """A collective under way, whose ``wait`` counts."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        with _TIMER.timing():
            return self._work.wait(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


@contextmanager
def timed(ledger: Ledger) -> Iterator[None]:
    """Within it, time that this thread waits in collectives counts as communication.

    The functions are wrapped at the first call and stay so: DeepSpeed keeps some of them for the
    life of the process. To be entered before an engine is built.
    """
    _wrap_once()
    before = _TIMER.ledger, _TIMER.thread
    _TIMER.ledger, _TIMER.thread = ledger, threading.get_ident()
    try:
        yield
    finally:
        _TIMER.ledger, _TIMER.thread = before


def can_be_timed() -> bool:
    """Whether collectives of the default group block their caller."""
    return dist.get_backend() == "gloo"


def timed_calls() -> int:
    """Calls that were timed in this process, those within others not counted."""
    return _TIMER.calls


def _wrap_once() -> None:
    for name in BLOCKING:
        function = getattr(c10d, name, None)
        if function is None or function in _TIMER.wrapped:
            continue
        wrapped = _timing(function)
        _TIMER.wrapped.add(wrapped)
        for module in (c10d, dist):
            if getattr(module, name, None) is function:
                setattr(module, name, wrapped)


def _timing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        _TIMER.calls += not _TIMER.depth
        with _TIMER.timing():
            result = function(*args, **kwargs)
        return _TimedWork(result) if isinstance(result, dist.Work) else result

    return wrapped


def progress() -> dict[str, Any] | None:
    """How many collectives this rank has entered, and whether it is in one; takes microseconds.

    From torch's flight recorder. None where that is switched off. The recorder learns of a return
    a moment late, or with gloo only at the next one, when two return out of order: what is timed
    knows better.
    """
    groups = _recorded(entries=False).get("pg_status", {}).values()
    entered = sum(int(one["last_enqueued_collective"]) for one in groups)
    left = sum(max(0, int(one["last_completed_collective"])) for one in groups)
    if entered <= 0:
        return None
    return {"number": entered, "returned": left >= entered or _TIMER.idles()}


def last_collective() -> dict[str, Any] | None:
    """``progress`` with the name, shapes and dtypes; takes milliseconds.

    Of several that are under way it is the oldest one, which this rank waits in.
    """
    found = progress()
    entries = [one for one in _recorded(entries=True).get("entries", []) if not one["is_p2p"]]
    if found is None or not entries:
        return found
    waiting = [one for one in entries if not one["retired"]]
    last = waiting[0] if waiting else entries[-1]
    return {
        "number": found["number"] - max(0, len(waiting) - 1),
        "returned": not waiting or _TIMER.idles(),
        "name": last["profiling_name"].rpartition(":")[2],
        "shapes": last["input_sizes"],
        "dtypes": last["input_dtypes"],
    }


def _recorded(*, entries: bool) -> dict[str, Any]:
    # NCCL has a recorder of its own.
    name = "nccl" if dist.get_backend() == "nccl" else "fr"
    binding: Any = torch._C._distributed_c10d  # pyright: ignore[reportAttributeAccessIssue]
    dump = getattr(binding, f"_dump_{name}_trace_json")
    return json.loads(dump(entries, False))
