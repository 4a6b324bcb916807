"""Which GPUs there are: asked of the machines, as labels do not say how much memory a GPU has."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_ASK = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_ASK_S = 30.0
_MIB = 2**20


@dataclass(frozen=True)
class SeenGpu:
    """A GPU as its driver describes it."""

    name: str
    memory_bytes: int


def gpus_here() -> list[SeenGpu]:
    """GPUs of this machine; none where no driver answers."""
    return list(_parsed(_answer()))


def _answer() -> str:
    """What the driver says; nothing where there is none."""
    try:
        answer = subprocess.run(_ASK, capture_output=True, text=True, timeout=_ASK_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout


def gpus_of_cluster() -> list[SeenGpu]:
    """GPUs of the cluster that this process is connected to: one node of each kind is asked.

    None at all if one does not answer: then nobody knows what there is.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    kinds = {_kind(node["Resources"]): node["NodeID"] for node in _nodes_with_gpus()}
    asked: list[Any] = []
    for node in kinds.values():
        there: Any = NodeAffinitySchedulingStrategy(node, soft=False)
        ask: Any = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_answer)
        asked.append(ask.remote())
    try:
        answers: list[str] = ray.get(asked, timeout=2 * _ASK_S)
    except ray.exceptions.RayError:  # pyright: ignore[reportAttributeAccessIssue]
        return []
    seen = [list(_parsed(one)) for one in answers]
    return [gpu for gpus in seen for gpu in gpus] if all(seen) else []


def _nodes_with_gpus() -> list[dict[str, Any]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()
    return [node for node in nodes if node["Alive"] and node["Resources"].get("GPU")]


def _kind(resources: dict[str, float]) -> tuple[str, ...]:
    return tuple(sorted(name for name in resources if name.startswith("accelerator_type:")))


def _parsed(text: str) -> Iterator[SeenGpu]:
    for line in text.splitlines():
        name, _, memory = line.rpartition(",")
        if memory.strip().isdigit():
            yield SeenGpu(name=name.strip(), memory_bytes=int(memory) * _MIB)
