"""Following a job: what signals do to it, and what a cluster that does not answer does."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from rich.console import Console

from orchestrator.errors import StoppedError
from orchestrator.launch import job_log
from orchestrator.launch.job_log import follow_job


@dataclass
class FakeJobs:
    """A cluster with one job that runs until it is stopped.

    Args:
        number: the signal that reaches us while we follow.
        silent: how often the cluster does not answer a stop.
    """

    number: signal.Signals
    silent: int = 0
    asked: int = 0
    status: str = "RUNNING"
    looks: list[str] = field(default_factory=list[str])

    def stop_job(self, job: str) -> None:
        self.asked += 1
        if self.asked <= self.silent:
            raise ConnectionError("no answer")
        self.status = "STOPPED"

    def get_job_info(self, job: str) -> SimpleNamespace:
        if not self.looks:
            os.kill(os.getpid(), self.number)
        self.looks.append(job)
        assert len(self.looks) < 10, "the job was never stopped"
        return SimpleNamespace(status=self.status, driver_exit_code=None, message="")

    def get_job_logs(self, job: str) -> str:
        return "a line\n"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_log, "_POLL_S", 0.0)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C as a terminal's process takes it: the workers of a test run ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_stop_reaches_a_cluster_that_did_not_answer_at_first() -> None:
    jobs = FakeJobs(signal.SIGTERM, silent=2)
    with pytest.raises(StoppedError, match="was stopped"):
        follow_job(jobs, job="j", console=Console(quiet=True), again="look")
    assert jobs.asked == 3


def test_ctrl_c_leaves_the_job_alone_and_says_how_to_look_at_it() -> None:
    jobs = FakeJobs(signal.SIGINT)
    with pytest.raises(StoppedError, match=r"job j goes on, look at it: ray job logs j"):
        follow_job(jobs, job="j", console=Console(quiet=True), again="ray job logs j")
    assert jobs.asked == 0
