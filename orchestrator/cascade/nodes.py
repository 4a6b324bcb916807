"""The nodes of a Ray cluster: which of them gangs may start on, and what they have left."""

import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray._private.state import available_resources_per_node, state
from ray.util import placement_group_table

from orchestrator.cascade.room import Resources

_CONNECT_S = 2.0
_THREADS = 32


def draining_nodes() -> frozenset[str]:
    """Ids of nodes that are about to be taken away."""
    return frozenset(state.get_draining_nodes())


def usable_nodes() -> dict[str, Resources]:
    """What each node has when nothing runs on it, by its id: of those that live and stay."""
    leaving = draining_nodes()
    return {
        node["NodeID"]: node["Resources"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] not in leaving
    }


def free_nodes(group: str | None) -> list[Resources]:
    """What a gang could have on each node that answers now.

    The head takes seconds to notice that a node is gone: here, each is asked for a connection.

    Args:
        group: hex id of the placement group that the gang has now: its room counts as free.
    """
    usable = usable_nodes()
    there = [node for node in ray.nodes() if node["NodeID"] in usable]
    with ThreadPoolExecutor(_THREADS) as pool:
        answers = list(pool.map(_answers, there))
    free = available_resources_per_node()
    own = _held(group) if group is not None else []
    return [
        _sum(free.get(node["NodeID"], {}), *(held for home, held in own if home == node["NodeID"]))
        for node, is_there in zip(there, answers, strict=True)
        if is_there
    ]


def _answers(node: Mapping[str, Any]) -> bool:
    address = (node["NodeManagerAddress"], node["NodeManagerPort"])
    try:
        with socket.create_connection(address, timeout=_CONNECT_S):
            return True
    except OSError:
        return False


def _held(group: str) -> list[tuple[str, Resources]]:
    """The node and the amounts of each bundle of a placement group."""
    table = placement_group_table().get(group, {})
    return [(table["bundles_to_node_id"][one], table["bundles"][one]) for one in table["bundles"]]


def _sum(*amounts: Resources) -> Resources:
    names = {name for one in amounts for name in one}
    return {name: sum(one.get(name, 0.0) for one in amounts) for name in names}
