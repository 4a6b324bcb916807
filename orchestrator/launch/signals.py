"""SIGTERM and Ctrl-C: save and stop; once more: stop now."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from orchestrator.errors import StoppedError

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stop_on_signal(stop: threading.Event) -> Iterator[None]:
    """While it lasts, a first signal sets ``stop`` and a second one raises StoppedError.

    Only for the main thread.
    """

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise StoppedError(f"stopped at once by a second {signal.Signals(number).name}")
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def keeping_sigterm() -> Iterator[None]:
    """Puts the process's SIGTERM handler back after it; for any thread.

    Ray's core installs its own below Python, which aborts the process. Python's ``signal`` can
    neither see that nor undo it outside of the main thread.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    saved = ctypes.create_string_buffer(512)  # a struct sigaction is well below that
    libc.sigaction(int(signal.SIGTERM), None, saved)
    try:
        yield
    finally:
        libc.sigaction(int(signal.SIGTERM), saved, None)
