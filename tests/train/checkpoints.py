"""A small network in a plain engine, and checkpoints of it in a folder."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.recipe.train import Optim, Save
from orchestrator.storage.store import Store, open_store
from orchestrator.train.checkpoint.load import load_latest
from orchestrator.train.checkpoint.save import Saver
from orchestrator.train.engine.base import Engine
from orchestrator.train.engine.build import build_engine
from orchestrator.train.ownership import Ownership
from orchestrator.train.ranks import Ranks

CPU = torch.device("cpu")
ALONE = Ranks(rank=0, world_size=1, local_rank=0, device=CPU)
KEEP = Save(keep=10)
FOLDER = "stages/base"
PREFIX = f"{FOLDER}/checkpoints"


def build(*, width: int = 6) -> Engine:
    """Fresh weights, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))
    return build_engine(
        module,
        kind="plain",
        zero=0,
        precision="fp32",
        optim=Optim(lr=0.1),
        accumulation=1,
        ema_decay=0.5,
        device=CPU,
    )


def advance(engine: Engine, *, step: int) -> float:
    """One optimizer step on data drawn for ``step``; returns the loss."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(8, 4, generator=generator)
    loss = (engine(x) - x[:, :2]).square().mean()
    engine.backward(loss)
    assert engine.step(lr=0.05).applied
    return loss.item()


def bits(engine: Engine) -> dict[str, bytes]:
    """All state, byte by byte."""
    return {
        f"{one.name}/{key}": tensor.numpy().tobytes()
        for one in engine.fragments()
        for key, tensor in one.tensors.items()
    }


class Training:
    """Trains and saves as the worker does."""

    def __init__(self, folder: Path) -> None:
        self.store: Store = open_store(str(folder))
        self.folder = folder / PREFIX
        self.engine = build()
        self.bits_at: dict[int, dict[str, bytes]] = {}
        self.step = 0

    def save_at(self, *steps: int, save: Save = KEEP, losses: Sequence[float] = ()) -> None:
        """Trains on and saves after each of ``steps``, with the loss that was logged there."""
        for target, loss in zip_longest(steps, losses):
            while self.step < target:
                advance(self.engine, step=self.step)
                self.step += 1
            saver = self.saver(save=save)
            saver.begin(
                step=target,
                extra={"step": target, "stream": {"position": [target, 0.5, None]}},
                metrics={} if loss is None else {"loss": loss},
            )
            saver.finish()
            self.bits_at[target] = bits(self.engine)

    def saver(self, *, save: Save = KEEP, attempt: int = 1, store: Store | None = None) -> Saver:
        """One that owns the stage."""
        ownership = Ownership(self.store, FOLDER, attempt=attempt)
        ownership.take()
        return Saver(
            store or self.store,
            PREFIX,
            engines={"net": self.engine},
            ranks=ALONE,
            save=save,
            ownership=ownership,
        )

    def path(self, step: int, name: str) -> Path:
        """A file of a checkpoint."""
        return self.folder / f"step-{step:08d}" / name

    def load(self, **arguments: Any) -> tuple[dict[str, Any] | None, Engine]:
        """The newest good checkpoint in a fresh engine."""
        engine = build()
        extra = load_latest(self.store, PREFIX, engines={"net": engine}, ranks=ALONE, **arguments)
        return extra, engine
