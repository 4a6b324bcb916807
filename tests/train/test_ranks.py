"""Who can reach the process group of a gang that is all on one machine."""

import json
import os
import socket
import subprocess
import sys

import pytest

from orchestrator.errors import UnavailableError, UserError
from orchestrator.train.loopback import HOST, LOOPBACK
from orchestrator.train.ranks import join
from tests.groups import free_port

# One rank joins, and tells where it listens.
JOINED = """
import json, psutil
from orchestrator.train.ranks import join
from tests.groups import free_port
assert join(gpus=0).world_size == 1
found = psutil.Process().net_connections("inet")
print(json.dumps([one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN]))
"""


@pytest.mark.parametrize("has_peers", [True, False], ids=["gang", "alone"])
def test_a_rank_listens_on_loopback_only(has_peers: bool) -> None:
    env = {name: value for name, value in os.environ.items() if "SOCKET_IFNAME" not in name}
    if has_peers:
        env |= {"MASTER_ADDR": HOST, "MASTER_PORT": str(free_port())}
        env |= {"RANK": "0", "WORLD_SIZE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", JOINED], env=env, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert set(found) == {HOST}


def test_peers_that_nobody_says_the_place_of_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lone rank would else train on its part of every batch."""
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"^WORLD_SIZE=4 without MASTER_ADDR, wanted both"):
        join(gpus=0)


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        env = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": HOST, "MASTER_PORT": str(port)}
        for name, value in (env | LOOPBACK).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UnavailableError, match=rf"^MASTER_PORT={port} on 127\.0\.0\.1: Addr"):
            join(gpus=0)
