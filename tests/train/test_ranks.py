"""Who can reach the process group of a gang that is all on one machine."""

import json
import os
import socket
import subprocess
import sys

import pytest

from orchestrator.train.loopback import HOST

# One rank joins, and tells where it listens.
JOINED = """
import json, psutil
from orchestrator.train.ranks import join
assert join(gpus=0).world_size == 1
found = psutil.Process().net_connections("inet")
print(json.dumps([one.laddr.ip for one in found if one.status == psutil.CONN_LISTEN]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("has_peers", [True, False], ids=["gang", "alone"])
def test_a_rank_listens_on_loopback_only(has_peers: bool) -> None:
    env = {name: value for name, value in os.environ.items() if "SOCKET_IFNAME" not in name}
    if has_peers:
        env |= {"MASTER_ADDR": HOST, "MASTER_PORT": str(free_port()), "GLOO_SOCKET_IFNAME": "lo"}
        env |= {"RANK": "0", "WORLD_SIZE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", JOINED], env=env, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert set(found) == {HOST}
