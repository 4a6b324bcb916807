"""Nodes of a cluster say which GPUs they have."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.launch.gpus_seen import SeenGpu, gpus_of_cluster
from tests.ray.conftest import Head

pytestmark = pytest.mark.ray


@pytest.fixture
def joined(head: Head, tmp_path: Path) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(head.env)
    os.environ["RAY_ADDRESS"] = head.gcs
    from orchestrator.launch.ray_session import open_session

    session = open_session(None, folder=tmp_path)
    yield
    session.close()
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("joined")
def test_a_node_answers_for_its_driver_or_nothing_is_known(head: Head) -> None:
    """The head has a GPU by its word alone, until a driver is put where it looks for one."""
    assert gpus_of_cluster() == []
    driver = head.programs / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'NVIDIA L40S, 46068'\n")
    driver.chmod(0o755)
    try:
        assert gpus_of_cluster() == [SeenGpu(name="NVIDIA L40S", memory_bytes=46_068 << 20)]
    finally:
        driver.unlink()
