"""Signals: what a handler does, wherever it interrupts the main thread."""

import signal
import threading

import pytest

from orchestrator.errors import StoppedError
from orchestrator.launch.job_log import terminating
from orchestrator.launch.signals import stop_on_signal

LIMIT_S = 20.0  # a failure waits for it, a success does not


def interrupted_while_it_is_about_to_wait(event: threading.Event) -> bool:
    """Whether the event is set by a signal that comes while this thread holds the event's lock."""
    with event._cond:  # pyright: ignore[reportAttributeAccessIssue]  # as ``event.wait`` does
        signal.raise_signal(signal.SIGTERM)
    return event.wait(LIMIT_S)


@pytest.mark.timeout(60)
def test_a_signal_that_comes_while_a_run_is_about_to_wait_stops_it() -> None:
    stop = threading.Event()
    with stop_on_signal(stop):
        assert interrupted_while_it_is_about_to_wait(stop)


@pytest.mark.timeout(60)
def test_a_signal_that_comes_while_a_job_is_about_to_be_waited_for_stops_it() -> None:
    with terminating() as terminated:
        assert interrupted_while_it_is_about_to_wait(terminated)


def test_a_second_signal_does_not_wait() -> None:
    stop = threading.Event()
    with stop_on_signal(stop):
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StoppedError, match="at once by a second SIGINT"):
            signal.raise_signal(signal.SIGINT)
