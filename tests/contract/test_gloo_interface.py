"""Where the ranks of a gang on a cluster listen for each other."""

import os

import pytest
import ray

from orchestrator.cascade.ray_hosts import GLOO, choose_interface

LOOPBACK, NOT_HERE = "127.0.0.1", "198.51.100.7"


@pytest.mark.parametrize(
    ("address", "named", "chosen"),
    [(LOOPBACK, None, "lo"), (LOOPBACK, "eth7", "eth7"), (NOT_HERE, None, None)],
    ids=["ray's address", "the node's environment", "an address that no interface has"],
)
def test_gloo_listens_where_ray_reaches_the_host(
    monkeypatch: pytest.MonkeyPatch, address: str, named: str | None, chosen: str | None
) -> None:
    monkeypatch.setattr(os, "environ", {} if named is None else {GLOO: named})
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    choose_interface()
    assert os.environ.get(GLOO) == chosen
