"""SIGTERM and Ctrl-C: save and stop; once more: stop now."""

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

    Call it in the main thread; ray.init replaces a SIGTERM handler when it is called there, so it
    is called elsewhere.
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
