"""A cluster's jobs without a cluster."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.errors import UnavailableError
from orchestrator.launch.jobs import Job, LostJobError


@dataclass
class FakeJobs:
    """Jobs that run until they are stopped or ended by a test.

    Attributes:
        address: as the user gave it.
        host_names: of the machines.
        known: the jobs by id.
        commands: of every job, and the files that it was sent.
        logs: what every job has printed.
        on_look: called whenever a job is looked at.
        silent: how many of the next questions are not answered.
        stops: how often a stop was asked for.
        deaf: how many of the next stops find nobody to ask.
    """

    address: str = "http://127.0.0.1:8265"
    host_names: tuple[str, ...] = ()
    known: dict[str, Job] = field(default_factory=dict[str, Job])
    commands: dict[str, str] = field(default_factory=dict[str, str])
    files: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    logs: dict[str, str] = field(default_factory=dict[str, str])
    on_look: Callable[[], None] = lambda: None
    silent: int = 0
    stops: int = 0
    deaf: int = 0

    def add(self, job: str, **about: str) -> Job:
        self.known[job] = Job(id=job, status="RUNNING", metadata=about, started_s=len(self.known))
        return self.known[job]

    def end(self, job: str, *, status: str = "SUCCEEDED", exit_code: int | None = 0) -> None:
        self.known[job] = replace(self.known[job], status=status, exit_code=exit_code)

    def list(self) -> Sequence[Job]:
        self._answer()
        return list(self.known.values())

    def get(self, job: str) -> Job:
        self.on_look()
        self._answer()
        if job not in self.known:
            raise LostJobError(f"{self.address} knows no job {job}")
        return self.known[job]

    def log(self, job: str) -> str:
        self._answer()
        return self.logs.get(job, "")

    def submit(
        self, job: str, *, command: str, folder: Path, env: Mapping[str, str], about: dict[str, str]
    ) -> None:
        self._answer()
        if job in self.known:
            raise UnavailableError(f"{job} already exists")
        self.add(job, **about)
        self.commands[job] = command
        paths = (path for path in folder.rglob("*") if path.is_file())
        self.files[job] = {str(path.relative_to(folder)) for path in paths}

    def stop(self, job: str) -> bool:
        self.stops += 1
        self._answer()
        if self.deaf:
            self.deaf -= 1
            return False
        self.end(job, status="STOPPED", exit_code=None)
        return True

    def hosts(self) -> Sequence[str]:
        self._answer()
        return self.host_names

    def _answer(self) -> None:
        if self.silent:
            self.silent -= 1
            raise UnavailableError(f"--address {self.address}: no answer")
