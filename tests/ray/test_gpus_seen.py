"""Nodes of a cluster say which GPUs they have."""

import subprocess
import sys

import pytest

from tests.ray.conftest import Head

pytestmark = pytest.mark.ray

# Beside other tests a process may have joined another Ray, and Ray keeps the first token.
SEEN = """
from orchestrator.launch.gpus_seen import gpus_of_cluster
from orchestrator.launch.ray_session import open_session
session = open_session(None, folder=None)
print([(one.name, one.memory_bytes >> 20) for one in gpus_of_cluster()])
session.close()
"""


def seen(head: Head) -> str:
    """What a process says that has joined the head."""
    done = subprocess.run(
        [sys.executable, "-c", SEEN],
        env=head.env | {"RAY_ADDRESS": head.gcs},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_node_answers_for_its_driver_or_nothing_is_known(head: Head) -> None:
    """The head has a GPU by its word alone, until a driver is put where it looks for one."""
    assert seen(head) == "[]"
    driver = head.programs / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'NVIDIA L40S, 46068'\n")
    driver.chmod(0o755)
    try:
        assert seen(head) == "[('NVIDIA L40S', 46068)]"
    finally:
        driver.unlink()
