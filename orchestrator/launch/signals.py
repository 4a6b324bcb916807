"""SIGTERM and Ctrl-C: save and stop; once more: stop now."""

import _thread
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

    heard = False

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal heard
        if heard or stop.is_set():
            raise StoppedError(f"stopped at once by a second {signal.Signals(number).name}")
        heard = True
        set_in_handler(stop)

    before = {number: signal.signal(number, on_signal) for number in _NUMBERS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def set_in_handler(event: threading.Event) -> None:
    """Sets an event from a signal's handler; it is set a moment later.

    The handler interrupts the main thread anywhere, also in the event's own ``wait`` while that
    holds the event's lock, for which ``event.set()`` would then wait for ever.
    """
    _thread.start_new_thread(event.set, ())


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
