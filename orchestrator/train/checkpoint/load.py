"""Reading a checkpoint back, at any world size and into any engine."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import RushesError, UserError
from orchestrator.storage.store import Store
from orchestrator.train.checkpoint.format import COMMIT, DAMAGED, PASSED_OVER, Parameter, folder
from orchestrator.train.checkpoint.reader import Checkpoint, DamagedError
from orchestrator.train.checkpoint.steps import committed
from orchestrator.train.engine.base import Engine
from orchestrator.train.exchange import gather_json
from orchestrator.train.ranks import Ranks


def load_latest(
    store: Store,
    prefix: str,
    *,
    engines: Mapping[str, Engine],
    ranks: Ranks,
    note: Callable[[str], None] | None = None,
    is_fit: Callable[[Mapping[str, Any]], str | None] | None = None,
) -> dict[str, Any] | None:
    """Loads the newest checkpoint whose every byte is as it was written; collective.

    Newer ones that are damaged are put aside: their COMMIT becomes DAMAGED, with the reason. So are
    those that are not fit: it becomes PASSED_OVER.

    Args:
        store: where the run is.
        prefix: key of the folder of checkpoints.
        engines: networks by name, as they were saved.
        ranks: this process and its peers.
        note: told on rank 0 of every checkpoint that is put aside.
        is_fit: says of a checkpoint's ``extra``, on all ranks alike, why it is not to be loaded.

    Returns:
        The ``extra`` that was saved, or None if nothing fit was ever committed; then none is
        touched.

    Raises:
        UserError: if the networks are not those of the checkpoint.
        RushesError: if there are checkpoints but all are damaged; none is touched.
    """
    found = committed(store, prefix) if ranks.rank == 0 else []
    damaged: dict[int, str] = {}
    unfit: dict[int, str] = {}
    for step in gather_json(found, device=ranks.device)[0]:
        with tempfile.TemporaryDirectory(prefix="rushes-checkpoint-") as scratch:
            target = folder(prefix, step=step)
            checkpoint = problem = reason = None
            try:
                checkpoint = Checkpoint.open(store, target, step=step, scratch=Path(scratch))
                reason = None if is_fit is None else is_fit(checkpoint.index.extra)
                if reason is None:
                    checkpoint.verify(rank=ranks.rank, world_size=ranks.world_size)
            except DamagedError as error:
                problem = str(error)
            problems = [one for one in gather_json(problem, device=ranks.device) if one]
            if problems or checkpoint is None:
                damaged[step] = problems[0]
            elif reason is not None:
                unfit[step] = reason
            else:
                if ranks.rank == 0:
                    _put_aside(store, prefix, damaged, marker=DAMAGED, note=note)
                    _put_aside(store, prefix, unfit, marker=PASSED_OVER, note=note)
                _fill(engines, checkpoint=checkpoint)
                return checkpoint.index.extra
    if damaged and not unfit:
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
        raise RushesError(
            f"{store.uri}/{prefix}: no checkpoint is whole, wanted at least one ({reasons}); "
            "delete the folder to start from step 0"
        )
    return None


def _fill(engines: Mapping[str, Engine], *, checkpoint: Checkpoint) -> None:
    shapes = {
        f"{network}/{name}": shape
        for network, engine in engines.items()
        for name, shape in engine.shapes().items()
    }
    _check_shapes(checkpoint.index.parameters, shapes=shapes, where=checkpoint.where)
    for network, engine in engines.items():
        engine.load(
            checkpoint.reader(network),
            applied_steps=checkpoint.index.networks[network].applied_steps,
        )


def _check_shapes(
    saved: Mapping[str, Parameter], *, shapes: Mapping[str, tuple[int, ...]], where: str
) -> None:
    for name in sorted(saved.keys() | shapes.keys()):
        there = list(saved[name].shape) if name in saved else "none"
        here = list(shapes[name]) if name in shapes else "none"
        if there != here:
            raise UserError(f"{where}: {name} has shape {there}, wanted {here}")


def _put_aside(
    store: Store,
    prefix: str,
    reasons: Mapping[int, str],
    *,
    marker: str,
    note: Callable[[str], None] | None,
) -> None:
    for step, reason in reasons.items():
        target = folder(prefix, step=step)
        commit = store.get(f"{target}/{COMMIT}")
        store.put(f"{target}/{marker}", reason.encode() + b"\n" + commit)
        store.delete(f"{target}/{COMMIT}")
        if note is not None:
            note(f"put aside checkpoint of step {step}: {reason}")
