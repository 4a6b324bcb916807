"""The jobs of a cluster: what there are, their logs, and how they are started and stopped."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from orchestrator.errors import UnavailableError, UserError
from orchestrator.launch.ray_session import WANTED_TOKEN, set_auth_mode

# Keys of a job's metadata.
RUN = "rushes.run"  # URI of its folder
RECIPE = "rushes.recipe"  # the recipe's name
DIGEST = "rushes.digest"  # what makes two runs the same run
REQUEST = "rushes.request"  # digest of all that was asked for
NAME = "job_name"  # Ray's own key, shown by its dashboard

_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
# Ray's client prefers these to the address that it is given.
_OTHER_ADDRESSES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
_NOT_FOUND = re.compile(r"status code 404\b")


class LostJobError(UnavailableError):
    """A cluster does not know a job: it never did, or its head was started anew."""


@dataclass(frozen=True)
class Job:
    """A job as its cluster tells of it.

    Attributes:
        id: its submission id.
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        metadata: what it was submitted with; see the keys above.
        started_s: when, in seconds since 1970; None before.
        ended_s: when, in seconds since 1970; None before.
        exit_code: its driver's; None for one that runs, was stopped or was lost.
        message: what Ray says of its status.
    """

    id: str
    status: str
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    started_s: float | None = None
    ended_s: float | None = None
    exit_code: int | None = None
    message: str = ""

    @property
    def ended(self) -> bool:
        """True once it will do nothing more."""
        return self.status in _ENDED


class Jobs(Protocol):
    """What `rushes` asks of a cluster.

    All of it raises UnavailableError if the cluster does not answer, and UserError if it does not
    take our token.
    """

    address: str

    def list(self) -> Sequence[Job]:
        """Every submitted job that the cluster remembers, oldest first."""
        ...

    def get(self, job: str) -> Job:
        """One of them; raises LostJobError if there is none of that id."""
        ...

    def log(self, job: str) -> str:
        """All that its driver has printed."""
        ...

    def submit(
        self, job: str, *, command: str, folder: Path, env: Mapping[str, str], about: dict[str, str]
    ) -> None:
        """Sends a folder and starts a command in it; raises if the id was used before."""
        ...

    def stop(self, job: str) -> bool:
        """Asks its driver to end: SIGTERM, and SIGKILL where that takes too long.

        Returns:
            False if nobody was there to be asked: it has ended, or is only about to start.
        """
        ...

    def hosts(self) -> Sequence[str]:
        """Names of the cluster's machines."""
        ...


def open_jobs(address: str) -> Jobs:
    """Connects to a dashboard.

    Args:
        address: as ``checked_address`` returns it.

    Raises:
        UserError: if it wants a token that we do not have, or is not Ray's.
        UnavailableError: if nobody answers.
    """
    set_auth_mode()
    for name in _OTHER_ADDRESSES:
        os.environ.pop(name, None)
    return _RayJobs(address)


def checked_address(address: str) -> str:
    """The URL of a dashboard without its last slash.

    Raises:
        UserError: if it is none, or holds a secret (it is printed and ends in shell histories).
    """
    parts = urlsplit(address)
    if "@" in address or parts.query or parts.fragment:
        # Whatever stands before an @ or after a ? may be secret, also where a scheme is missing.
        shown = address.rpartition("@")[2].partition("?")[0].partition("#")[0]
        raise UserError(
            f"--address {shown}: a URL with a user, a password or a query, wanted the token in "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"--address {address}: wanted the dashboard's URL, http://HOST:8265")
    return address.rstrip("/")


class _RayJobs:
    """Jobs of a Ray cluster, by its dashboard."""

    def __init__(self, address: str) -> None:
        # Late: it takes a second, and set_auth_mode comes before.
        from orchestrator.launch.ray_jobs import BoundedClient

        self.address = address
        with self._asking():
            try:
                self._client = BoundedClient(address)
            except (KeyError, TypeError):
                raise UserError(f"--address {address}: answers, but not as Ray does") from None

    def list(self) -> Sequence[Job]:
        with self._asking():
            found = self._client.list_jobs()
        jobs = [_job(one) for one in found if one.submission_id is not None]
        return sorted(jobs, key=lambda one: one.started_s or 0.0)

    def get(self, job: str) -> Job:
        with self._asking(job):
            return _job(self._client.get_job_info(job))

    def log(self, job: str) -> str:
        with self._asking(job):
            return self._client.get_job_logs(job)

    def submit(
        self, job: str, *, command: str, folder: Path, env: Mapping[str, str], about: dict[str, str]
    ) -> None:
        with self._asking():
            self._client.submit_job(
                submission_id=job,
                entrypoint=command,
                runtime_env={"working_dir": str(folder), "env_vars": dict(env)},
                metadata=about,
            )

    def stop(self, job: str) -> bool:
        with self._asking(job):
            return self._client.stop_job(job)

    def hosts(self) -> Sequence[str]:
        with self._asking():
            return self._client.host_names()

    @contextmanager
    def _asking(self, job: str | None = None) -> Iterator[None]:
        """Turns what Ray and requests raise into ours."""
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise UserError(
                f"--address {self.address}: {_first_line(error)}; {WANTED_TOKEN}"
            ) from None
        except (RuntimeError, OSError) as error:
            if job is not None and _NOT_FOUND.search(str(error)):
                raise LostJobError(f"{self.address} knows no job {job}") from None
            raise UnavailableError(f"--address {self.address}: {_first_line(error)}") from None


def _job(info: Any) -> Job:
    return Job(
        id=info.submission_id,
        status=str(info.status),
        metadata=info.metadata or {},
        started_s=None if info.start_time is None else info.start_time / 1000,
        ended_s=None if info.end_time is None else info.end_time / 1000,
        exit_code=info.driver_exit_code,
        message=info.message or "",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
