"""What a single rank looks at inside DeepSpeed."""

import sys
from typing import Any

import torch
from torch.nn import functional as F

from orchestrator.train.collectives import last_collective, progress, timed, timed_calls
from orchestrator.train.engine.partitions import adamw_state, partitions, push_masters
from orchestrator.train.ledger import process_ledger
from orchestrator.train.ranks import Ranks
from tests.numerics.tasks import Setup, train


def private_parts(ranks: Ranks, setup: Setup) -> dict[str, Any]:
    """What ``engine/partitions.py`` touches, after one training step."""
    linear = F.linear
    engine = setup.engine(ranks)
    inner = engine._engine  # pyright: ignore[reportAttributeAccessIssue]
    optimizer = inner.optimizer
    train(ranks, engine, start=0, stop=1)
    owned = partitions(inner)
    before = {name: p.detach().clone() for name, p in inner.module.named_parameters()}
    with torch.no_grad():
        for partition in owned:
            partition.flat.data.add_(1.0)
    push_masters(inner)
    states = [adamw_state(inner, partition.flat) for partition in owned]
    return {
        "optimizer": type(optimizer).__name__,
        "flats": len(owned),
        "keys": [sorted(state) for state in states],
        "steps": [state["step"].item() for state in states],
        "step_tensors": len({id(state["step"]) for state in states}),
        "names": sorted(one.name for partition in owned for one in partition.slices),
        "padding_is_zero": all(
            _padding_is_zero(one, state) for one, state in zip(owned, states, strict=True)
        ),
        "moved": _moved(inner, before=before),
        "linear_is_untouched": F.linear is linear,
    }


def _padding_is_zero(partition: Any, state: dict[str, torch.Tensor]) -> bool:
    inside = torch.zeros_like(partition.flat, dtype=torch.bool)
    for one in partition.slices:
        assert not inside[one.offset : one.offset + one.numel].any()
        inside[one.offset : one.offset + one.numel] = True
    return not state["exp_avg"][~inside].any() and bool(inside.any())


def _moved(inner: Any, *, before: dict[str, torch.Tensor]) -> dict[str, float]:
    moved: dict[str, float] = {}
    for name, parameter in inner.module.named_parameters():
        if hasattr(parameter, "ds_id"):
            parameter.all_gather()
            moved[name] = parameter.detach().float().mean().item()
            parameter.partition()
        else:
            moved[name] = (parameter.detach() - before[name]).float().mean().item()
    return moved


def start_up(ranks: Ranks, setup: Setup) -> dict[str, Any]:
    """What building an engine leaves in the process."""
    setup.engine(ranks)
    import deepspeed  # tests alone look inside
    from deepspeed import comm

    return {
        "version": deepspeed.__version__,
        "mlflow": "mlflow" in sys.modules,
        "shm": comm.comm.cdb.shm_comm_op,
        "extensions": [name for name in sys.modules if name.startswith("deepspeed_shm")],
    }


def collectives_of_steps(ranks: Ranks, setup: Setup) -> dict[str, Any]:
    """Collectives of two training steps: as torch recorded them, and as they were timed."""
    with process_ledger() as ledger, timed(ledger):
        engine = setup.engine(ranks)
        train(ranks, engine, start=0, stop=1)
        ledger.settle("compute")
        before, calls = progress(), timed_calls()
        train(ranks, engine, start=1, stop=3)
        after, last = progress(), last_collective()
    assert before is not None
    assert after is not None
    return {
        "recorded": after["number"] - before["number"],
        "timed": timed_calls() - calls,
        "communication_ns": ledger.read().spent_ns["communication"],
        "returned": after["returned"],
        "last": last,
    }
