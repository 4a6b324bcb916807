"""What a run shows."""

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.launch import terminal
from orchestrator.launch.terminal import LiveView, PlainView, duration, open_view


def progress(step: int, **values: Any) -> dict[str, Any]:
    return {"kind": "progress", "stage": "dit", "step": step, "steps": 1000, **values}


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def test_without_a_terminal_a_stage_is_a_dozen_lines(out: io.StringIO) -> None:
    view = open_view(Console(file=out))
    assert isinstance(view, PlainView)
    view.event({"kind": "stage", "stage": "dit"})
    for step in range(1, 1001):
        view.event(progress(step, loss=1 / step, clips_per_s=3.0, eta_s=1000.0 - step))
        view.event({"kind": "metrics", "stage": "dit", "step": step, "values": {"loss": 1.0}})
    view.event({"kind": "end", "stage": "dit", "status": "FINISHED"})
    lines = out.getvalue().splitlines()
    assert len(lines) == 12
    assert lines[1] == "dit  running  1/1000  loss 1  3.0 clips/s  16 min 39 s left"
    assert lines[-1].startswith("dit  running  1000/1000")


def test_in_a_terminal_a_stage_is_one_line_with_all_it_needs(out: io.StringIO) -> None:
    view = open_view(Console(file=out, force_terminal=True, width=120))
    assert isinstance(view, LiveView)
    view.event({"kind": "stage", "stage": "dit"})
    for step in (10, 20):
        view.event(progress(step, loss=0.25, clips_per_s=3.0, eta_s=61.0))
    view.close()
    last = out.getvalue().rsplit("\r", 1)[-1]
    for part in ("dit", "running", "20/1000", "loss 0.25", "3.0 clips/s", "1 min 01 s left"):
        assert part in last


def test_what_was_there_at_the_start_says_nothing_about_the_speed(
    out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([100.0, 110.0])
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: next(now)))
    view = open_view(Console(file=out))
    view.event({"kind": "stage", "stage": "encode"})
    for step in (80, 90):
        view.event({"kind": "progress", "stage": "encode", "step": step, "steps": 100, "found": 80})
    view.event({"kind": "end", "stage": "encode", "status": "FINISHED"})
    assert out.getvalue().endswith("90/100  10 s left\n")


def test_a_note_is_shown_and_the_reason_of_a_failure_is_left_to_the_end(out: io.StringIO) -> None:
    view = open_view(Console(file=out))
    view.event({"kind": "note", "stage": "dit", "text": "goes on from 40 [1]"})
    view.event({"kind": "note", "stage": "dit", "text": "bad", "failure": True})
    assert out.getvalue() == "dit: goes on from 40 [1]\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (3599, "59 min 59 s"), (7320, "2 h 02 min")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
