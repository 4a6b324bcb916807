"""Whether stages fit side by side: a calculation, without Ray."""

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
    return _gang(compute, workers=compute.min_workers or compute.ranks)


def most(compute: Compute) -> Gang:
    """What a running stage holds or may grow to."""
    return _gang(compute, workers=compute.ranks)


def _gang(compute: Compute, *, workers: int) -> Gang:
    needs = {"CPU": float(compute.cpus_per_worker), "GPU": float(compute.gpus_per_worker)}
    return Gang(workers=workers, needs=needs)


def fit(gangs: Sequence[Gang], *, nodes: Sequence[Resources]) -> bool:
    """True if every worker finds a node; the largest are placed first.

    Args:
        gangs: all that is to run at one time.
        nodes: what each node has when nothing runs on it.
    """
    free = [dict(node) for node in nodes]
    workers = [gang.needs for gang in gangs for _ in range(gang.workers)]
    workers.sort(key=lambda needs: (needs["GPU"], needs["CPU"]), reverse=True)
    for needs in workers:
        home = next((node for node in free if _has(node, needs)), None)
        if home is None:
            return False
        for name, amount in needs.items():
            home[name] = home.get(name, 0.0) - amount
    return True


def _has(node: Resources, needs: Resources) -> bool:
    return all(node.get(name, 0.0) >= amount for name, amount in needs.items())
