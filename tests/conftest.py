"""Servers that several rooms' tests share."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling, LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.recoveries import KEY, Recoveries, table
from tests.s3store import S3Store

# No test says how long anything may take.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Whose tests share what takes long to make: ``gangs`` and ``runs``.
TOGETHER = "tests/numerics/"
# Started after those, and before all others: one that takes long must not be the last.
LONG = (
    "tests/launch/test_local.py",
    "tests/models/test_samplers.py",
    "tests/train/test_pause.py",
    "tests/train/test_cascade_stages.py",
    "tests/tracking/test_mlflow.py",
    "tests/data/prepare/",
)


class _Files(LoadFileScheduling):
    """A file to a process, and a room whose tests share something."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return TOGETHER if file.startswith(TOGETHER) else file

    def remove_node(self, node: WorkerController) -> str | None:
        """Gives back what a process that died had not finished, and only that.

        A file of which nothing is left would be given to another one, which says nothing of it,
        and gets no more until it does: all would wait for ever.
        """
        files = self.assigned_work[node]
        for file in [one for one, tests in files.items() if all(tests.values())]:
            del files[file]
        return super().remove_node(node)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    config.option.loadscopereorder = False  # or those with many tests would come first
    return _Files(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Rooms and files in the order in which they are given to processes."""
    first = (TOGETHER, *LONG)

    def place(item: pytest.Item) -> int:
        at = (at for at, part in enumerate(first) if item.nodeid.startswith(part))
        return next(at, len(first))

    items.sort(key=place)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Store]:
    """One S3 server for the whole session; tests that ask for it are marked ``s3``."""
    with S3Store(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Store, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """The server, with the environment that leads to it."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def bucket(s3: S3Store, request: pytest.FixtureRequest) -> str:
    """URI of a new, empty place in the server's bucket."""
    return f"s3://{s3.bucket}/{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]}"


@pytest.fixture(scope="session")
def recoveries(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Recoveries]:
    """Seconds of every part of every recovery, by what was broken: shown and kept at the end."""
    path = tmp_path_factory.getbasetemp() / "recoveries.json"
    found = request.config.stash[KEY] = Recoveries(path=path)
    yield found
    path.write_text(json.dumps(found.seconds, indent=1))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    found = config.stash.get(KEY, None)
    if found is None or not found.seconds:
        return
    terminalreporter.section("recoveries")
    for line in table(found.seconds):
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"also in {found.path}")
