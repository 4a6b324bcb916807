"""A stage's state from and to checkpoints of DeepSpeed itself."""

import tempfile
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.storage.store import open_store
from orchestrator.train.checkpoint.load import load_latest
from orchestrator.train.checkpoint.save import Saver
from orchestrator.train.checkpoint.steps import committed
from orchestrator.train.engine.stock import read_stock
from orchestrator.train.engine.zero import ZeroEngine
from orchestrator.train.engines import build_engines
from orchestrator.train.job import StageJob
from orchestrator.train.ownership import Ownership
from orchestrator.train.ranks import join
from orchestrator.train.schedule import learning_rate
from orchestrator.train.sources import open_stream
from orchestrator.train.tasks.build import build_task


def import_stock(job: StageJob, *, folder: Path, tag: str | None) -> int:
    """Commits what a DeepSpeed checkpoint holds as the state of a stage that has not begun.

    Masters, moments and AdamW's count are taken over; the EMA starts from the masters, and the
    data goes on where a run of so many steps would be. One process holds the whole state.

    Args:
        job: the stage; what it is made from is finished.
        folder: what DeepSpeed was given, or one of its tags; for a stage of several networks one
            such folder for each, by name.
        tag: default: the newest one.

    Returns:
        The step that the stage goes on from.

    Raises:
        UserError: if the stage has begun, or its networks are not those of the checkpoint.
    """
    stage, ranks, store = job.spec, join(gpus=0), open_store(job.run)
    checkpoints = f"{job.folder}/checkpoints"
    if committed(store, checkpoints):
        raise UserError(
            f"{store.uri}/{checkpoints}: stage {stage.id} has begun, wanted one that has not"
        )
    task = build_task(job.recipe, stage, store=store, device=ranks.device)
    engines = build_engines(stage, task, ranks=ranks, kind="plain", zero=0)
    steps: dict[str, int] = {}
    for name, engine in engines.items():
        source = folder if len(engines) == 1 else folder / name
        with tempfile.TemporaryDirectory(prefix="rushes-stock-") as scratch:
            state = read_stock(source, tag=tag, scratch=Path(scratch))
            state.check(engine.shapes())
            engine.load(state, applied_steps=state.applied_steps)
        steps[name] = state.step
    if len(set(steps.values())) > 1:
        raise UserError(f"{folder}: networks at steps {steps}, wanted one step")
    (step,) = set(steps.values())
    ownership = Ownership(store, job.folder, attempt=job.attempt)
    ownership.take()
    saver = Saver(
        store,
        checkpoints,
        engines=engines,
        ranks=ranks,
        save=stage.save,
        ownership=ownership,
    )
    stream = open_stream(job, ranks=ranks)
    saver.begin(step=step, extra={"step": step, "stream": stream.state_dict() | {"step": step}})
    saver.finish()
    return step


def export_stock(job: StageJob, *, out: Path) -> tuple[int, list[Path]]:
    """Writes a stage's newest checkpoint as DeepSpeed does, for one rank.

    At the recipe's ZeRO stage, or 1 where it has none; the EMA, which DeepSpeed does not know, is
    left out. DeepSpeed resumes from it at one rank; ``ds_to_universal`` makes it fit others.

    Returns:
        The step, and the folders that ``engine.load_checkpoint`` takes, one per network.

    Raises:
        UserError: if the stage has no checkpoint.
    """
    stage, ranks, store = job.spec, join(gpus=0), open_store(job.run)
    task = build_task(job.recipe, stage, store=store, device=ranks.device)
    zero = max(1, stage.compute.zero)
    engines = build_engines(stage, task, ranks=ranks, kind="deepspeed", zero=zero)
    found = load_latest(store, f"{job.folder}/checkpoints", engines=engines, ranks=ranks)
    if found is None:
        raise UserError(f"{store.uri}/{job.folder}: no checkpoint there, wanted a stage that began")
    step, train = int(found["step"]), stage.training
    lr = learning_rate(min(step, train.steps - 1), optim=train.optim, steps=train.steps)
    folders: list[Path] = []
    for name, engine in engines.items():
        assert isinstance(engine, ZeroEngine)
        target = out if len(engines) == 1 else out / name
        engine.save_stock(target, step=step, lr=lr)
        folders.append(target)
    return step, folders
