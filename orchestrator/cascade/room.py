"""Whether stages fit side by side, and what is said if not: without Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.recipe.train import Compute

Resources = Mapping[str, float]
"""Amounts by Ray's names: CPU, GPU."""


@dataclass(frozen=True)
class Gang:
    """So many workers, each of which needs this much on one node."""

    workers: int
    needs: Resources


def least(compute: Compute) -> Gang:
    """What a stage needs to start."""
    return gang_of(compute, workers=compute.least_ranks)


def missing(compute: Compute, *, placed: int) -> Gang:
    """What a running stage is about to take: all that it may, as long as it has no place.

    A gang that has one grows only into what no stage waits for: it has no claim to it.
    """
    return gang_of(compute, workers=0 if placed else compute.ranks)


def shortage(compute: Compute, *, nodes: Sequence[Resources]) -> str:
    """What a stage needs and what all nodes have, in one line."""
    gang = least(compute)
    workers = f"{gang.workers} worker{'s' if gang.workers > 1 else ''}"
    has = "; ".join(_amounts(node) for node in nodes) or "no nodes"
    return f"needs {workers} with {_amounts(gang.needs)} each on one node, the nodes have: {has}"


def _amounts(amounts: Resources) -> str:
    named = [f"{amounts[name]:g} {name}" for name in ("CPU", "GPU") if amounts.get(name)]
    return ", ".join(named) or "nothing"


def gang_of(compute: Compute, *, workers: int) -> Gang:
    """So many of a stage's workers."""
    needs = {"CPU": float(compute.cpus_per_worker), "GPU": float(compute.gpus_per_worker)}
    return Gang(workers=workers, needs=needs)


def largest(sizes: Sequence[int], *, needs: Resources, nodes: Sequence[Resources]) -> int | None:
    """The largest gang that finds a place, of those with ``sizes`` workers; None: not one does."""
    places = sum(_count(node, needs) for node in nodes)
    return max((size for size in sizes if size <= places), default=None)


def fit(gangs: Sequence[Gang], *, nodes: Sequence[Resources]) -> bool:
    """True if every worker finds a node; the largest are placed first.

    Args:
        gangs: those without a place; all are to have one at the same time.
        nodes: what each node has left.
    """
    free = [dict(node) for node in nodes]
    return all(_place(needs, free=free) for needs in _workers(gangs))


def left(gangs: Sequence[Gang], *, nodes: Sequence[Resources]) -> list[Resources]:
    """What nodes have left beside gangs that wait for a place.

    A worker that finds none needs a node to come, or a stage to end: it keeps nobody waiting.
    """
    free = [dict(node) for node in nodes]
    for needs in _workers(gangs):
        _place(needs, free=free)
    return list(free)


def _workers(gangs: Sequence[Gang]) -> list[Resources]:
    """What each worker needs, the largest first."""
    workers = [gang.needs for gang in gangs for _ in range(gang.workers)]
    return sorted(workers, key=lambda needs: (needs["GPU"], needs["CPU"]), reverse=True)


def _place(needs: Resources, *, free: Sequence[dict[str, float]]) -> bool:
    """Takes a worker's share from the first node that has it; False if none has."""
    home = next((node for node in free if _has(node, needs)), None)
    if home is None:
        return False
    for name, amount in needs.items():
        home[name] = home.get(name, 0.0) - amount
    return True


def _count(node: Resources, needs: Resources) -> int:
    """How many workers one node has room for."""
    return int(min(node.get(name, 0.0) // amount for name, amount in needs.items() if amount))


def _has(node: Resources, needs: Resources) -> bool:
    return all(node.get(name, 0.0) >= amount for name, amount in needs.items())
