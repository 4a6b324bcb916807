"""Following a job: what signals do to it, and what a cluster that does not answer does."""

import io
import os
import signal
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from orchestrator.errors import RushesError, StoppedError, UnavailableError
from orchestrator.launch import job_log
from orchestrator.launch.job_log import follow_job, stop_job
from tests.clusters import FakeJobs

LIMIT_S = 20.0  # a failure waits for it, a success does not


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_log, "_POLL_S", 0.001)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal's process takes it: the workers of a test run ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def jobs() -> FakeJobs:
    jobs = FakeJobs(logs={"j": "a line\n"})
    jobs.add("j")
    return jobs


def signalled(jobs: FakeJobs, number: signal.Signals) -> None:
    """Sends us a signal when the job is first looked at."""
    looks: list[float] = []

    def look() -> None:
        if not looks:
            os.kill(os.getpid(), number)
        looks.append(time.monotonic())
        assert looks[-1] - looks[0] < LIMIT_S, "the job never ended"

    jobs.on_look = look


def test_a_stop_reaches_a_cluster_that_did_not_answer_at_first(jobs: FakeJobs) -> None:
    signalled(jobs, signal.SIGTERM)
    jobs.silent = 2
    with pytest.raises(StoppedError, match="was stopped"):
        follow_job(jobs, job="j", console=Console(quiet=True))
    assert jobs.stops >= 1
    assert jobs.known["j"].status == "STOPPED"


def test_a_stop_that_nobody_heard_is_asked_for_again(jobs: FakeJobs) -> None:
    jobs.deaf = 2
    assert stop_job(jobs, job="j", console=Console(quiet=True)).status == "STOPPED"
    assert jobs.stops == 3


def test_a_log_that_is_away_for_a_while_is_not_shown_again(jobs: FakeJobs) -> None:
    logs = iter(["a line\n", "", "a line\nanother\n"])

    def look() -> None:
        jobs.logs["j"] = next(logs)
        if jobs.logs["j"].endswith("another\n"):
            jobs.end("j")

    jobs.on_look = look
    shown = io.StringIO()
    follow_job(jobs, job="j", console=Console(file=shown))
    assert shown.getvalue() == "a line\nanother\n"


def test_ctrl_c_leaves_the_job_alone_and_says_how_to_follow_and_stop_it(jobs: FakeJobs) -> None:
    signalled(jobs, signal.SIGINT)
    with pytest.raises(StoppedError) as caught:
        follow_job(jobs, job="j", console=Console(quiet=True))
    assert f"rushes job follow j --address {jobs.address}" in str(caught.value)
    assert f"rushes job stop j --address {jobs.address}" in str(caught.value)
    assert jobs.stops == 0
    assert not jobs.known["j"].ended


def test_a_lost_connection_repeats_and_loses_no_line(jobs: FakeJobs) -> None:
    looks: list[int] = []

    def look() -> None:
        looks.append(1)
        jobs.logs["j"] += f"line {len(looks)}\n"
        if len(looks) in (2, 3):
            jobs.silent = 1
        if len(looks) == 6:
            jobs.end("j")

    jobs.on_look = look
    shown = io.StringIO()
    follow_job(jobs, job="j", console=Console(file=shown))
    assert shown.getvalue() == jobs.logs["j"]


def test_a_cluster_that_stays_silent_is_given_up_and_may_be_followed_again(
    jobs: FakeJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_log, "_SILENCE_S", 0.0)
    jobs.silent = 100
    with pytest.raises(UnavailableError, match="rushes job follow j --address"):
        follow_job(jobs, job="j", console=Console(quiet=True))


def test_a_head_that_was_started_anew_has_forgotten_the_job(jobs: FakeJobs) -> None:
    jobs.on_look = jobs.known.clear
    with pytest.raises(UnavailableError, match="started anew; the same command goes on"):
        follow_job(jobs, job="j", console=Console(quiet=True))


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        *(("FAILED", 2, 2), ("FAILED", 75, 75), ("FAILED", 1, 1), ("FAILED", None, 75)),
        # A driver that a signal ended: killed for memory, or stopped before it could say so.
        *(("FAILED", -9, 75), ("FAILED", 137, 75), ("FAILED", -15, 143), ("FAILED", 143, 143)),
        ("FAILED", -11, 1),
    ],
)
def test_a_job_that_ends_ends_its_follower_alike(
    jobs: FakeJobs, status: str, code: int | None, exit_code: int
) -> None:
    jobs.end("j", status=status, exit_code=code)
    with pytest.raises(RushesError) as caught:
        follow_job(jobs, job="j", console=Console(quiet=True))
    assert caught.value.exit_code == exit_code


def test_a_stop_shows_only_what_the_job_says_from_then_on(jobs: FakeJobs) -> None:
    def look() -> None:
        jobs.logs["j"] += "saved\n"

    jobs.on_look = look
    shown = io.StringIO()
    assert stop_job(jobs, job="j", console=Console(file=shown)).status == "STOPPED"
    assert shown.getvalue() == "saved\n"
