"""What the ranks of a gang are told to do."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.recipe.train import Optim, Save
from orchestrator.storage.store import open_store
from orchestrator.train.checkpoint.load import load_latest
from orchestrator.train.checkpoint.save import Saver
from orchestrator.train.engine.base import STATE_KEYS, Engine, StateKey
from orchestrator.train.engine.blocks import apply_memory_and_speed
from orchestrator.train.engine.build import build_engine
from orchestrator.train.engine.collect import collect
from orchestrator.train.engine.stock import read_stock
from orchestrator.train.exchange import gather_json
from orchestrator.train.ownership import Ownership
from orchestrator.train.ranks import Ranks
from orchestrator.train.schedule import learning_rate
from tests.numerics.network import CHANNELS, TIMES, TOKENS, Branching, Critic, Denoiser, build

CLIPS = 24  # per optimizer step, over all ranks
ACCUMULATION = 2
STEPS = 24
SHORT = 8  # where no more of them would show more
EMA_DECAY = 0.8
OPTIM = Optim(
    lr=3e-3, weight_decay=0.05, grad_clip=0.5, warmup_steps=2, schedule="cosine", eps=1e-6
)
PREFIX = "stages/base/checkpoints"


@dataclass(frozen=True)
class Setup:
    """An engine to build."""

    kind: str = "deepspeed"
    zero: int = 1
    precision: str = "fp32"
    checkpointing: bool = False
    compile: bool = False
    grad_clip: float | None = 0.5

    def __str__(self) -> str:
        name = "plain" if self.kind == "plain" else f"zero{self.zero}"
        return f"{name}-{self.precision}"

    def engine(self, ranks: Ranks, *, network: type = Denoiser) -> Engine:
        """A fresh engine around a fresh network."""
        module = build(network)
        apply_memory_and_speed(
            getattr(module, "blocks", []), checkpointing=self.checkpointing, compile=self.compile
        )
        return build_engine(
            module,
            kind=self.kind,  # pyright: ignore[reportArgumentType]
            zero=self.zero,
            precision=self.precision,  # pyright: ignore[reportArgumentType]
            optim=OPTIM.model_copy(update={"grad_clip": self.grad_clip}),
            accumulation=ACCUMULATION,
            ema_decay=EMA_DECAY,
            device=ranks.device,
        )


def every_setup(*, world_size: int, precision: str) -> list[Setup]:
    """The plain engine, where it can be, and every stage."""
    plain = [Setup(kind="plain", precision=precision)] if world_size == 1 else []
    return plain + [Setup(zero=stage, precision=precision) for stage in range(4)]


@dataclass(frozen=True)
class Result:
    """What a training has come to; ``state`` is filled on rank 0."""

    losses: list[float]
    norms: list[float]
    applied: list[bool]
    state: dict[str, str]


def micro_batches(ranks: Ranks, *, step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """This rank's share of a step's clips: tokens, time steps and targets."""
    generator = torch.Generator().manual_seed(1000 + step)
    x = torch.randn(CLIPS, TOKENS, CHANNELS, generator=generator)
    noise = torch.randn(CLIPS, TOKENS, CHANNELS, generator=generator)
    time = torch.randint(TIMES, (CLIPS,), generator=generator)
    share = CLIPS // ranks.world_size
    size = share // ACCUMULATION
    for first in range(ranks.rank * share, (ranks.rank + 1) * share, size):
        part = slice(first, first + size)
        yield x[part] + noise[part], time[part], noise[part] * x[part].abs()


def train(
    ranks: Ranks,
    engine: Engine,
    *,
    start: int,
    stop: int,
    poison: int | None = None,
    before_update: Callable[[], None] = lambda: None,
) -> tuple[list[float], list[float], list[bool]]:
    """Losses (means over the whole batch), gradient norms, and whether steps were applied.

    ``poison``: the last rank's last micro-batch of this step is not a number.
    """
    losses, norms, applied = [], [], []
    for step in range(start, stop):
        total = torch.zeros(())
        micros = list(micro_batches(ranks, step=step))
        for index, (x, time, target) in enumerate(micros):
            loss = (engine(x, time) - target).square().mean()
            total = total + loss.detach() / ACCUMULATION
            last = ranks.rank == ranks.world_size - 1 and index == len(micros) - 1
            engine.backward(loss * float("nan") if step == poison and last else loss)
        before_update()
        outcome = engine.step(lr=learning_rate(step, optim=OPTIM, steps=STEPS))
        losses.append((ranks.total(total) / ranks.world_size).item())
        norms.append(float(outcome.grad_norm))
        applied.append(outcome.applied)
    return losses, norms, applied


def state(ranks: Ranks, engine: Engine) -> dict[str, str]:
    """A hash of every whole parameter's master, moments and EMA, and the step count; rank 0."""
    own = list(engine.fragments())
    flat = torch.cat([one.tensors[key] for one in own for key in STATE_KEYS])
    addresses = gather_json(
        [[one.name, list(one.shape), one.start, one.numel] for one in own], device=ranks.device
    )
    if ranks.rank != 0:
        dist.send(flat, dst=0)  # in one message: a message per slice takes most of the test's time
        return {}
    whole: dict[str, Tensor] = {}
    for source, slices in enumerate(addresses):
        if source:
            flat = torch.empty(len(STATE_KEYS) * sum(numel for *_, numel in slices))
            dist.recv(flat, src=source)
        parts = iter(flat.split([numel for *_, numel in slices for _ in STATE_KEYS]))
        for name, shape, start, numel in slices:
            for key in STATE_KEYS:
                target = whole.setdefault(f"{name}/{key}", torch.full(shape, float("nan")))
                target.view(-1)[start : start + numel] = next(parts)
    hashes = {name: _hash(tensor) for name, tensor in whole.items()}
    return {**hashes, "applied_steps": str(engine.applied_steps)}


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def run(ranks: Ranks, setup: Setup) -> Result:
    """Trains from the initial weights."""
    engine = setup.engine(ranks)
    return Result(*train(ranks, engine, start=0, stop=STEPS), state=state(ranks, engine))


def run_and_save(ranks: Ranks, setup: Setup, *, uri: str, save_at: int) -> tuple[Result, Result]:
    """Trains with a checkpoint on the way; the first result is as of then."""
    engine = setup.engine(ranks)
    first = Result(*train(ranks, engine, start=0, stop=save_at), state=state(ranks, engine))
    store = open_store(uri)
    ownership = Ownership(store, "stage", attempt=1)
    if ranks.rank == 0:
        ownership.take()
    saver = Saver(
        store,
        PREFIX,
        engines={"denoiser": engine},
        ranks=ranks,
        save=Save(keep=1),
        ownership=ownership,
    )
    saver.begin(step=save_at, extra={"setup": str(setup), "position": save_at * CLIPS})
    # The next steps run while the thread writes: what it writes must be the state of before.
    rest = train(ranks, engine, start=save_at, stop=STEPS, before_update=saver.wait_for_copy)
    second = Result(*rest, state=state(ranks, engine))
    saver.finish()
    return first, second


def load_all(
    ranks: Ranks, setup: Setup, *, uris: list[str]
) -> dict[str, tuple[dict[str, str], int]]:
    """The state after loading each checkpoint into one engine, which has trained a step before.

    With each goes the position in the clips.
    """
    engine = setup.engine(ranks)
    train(ranks, engine, start=0, stop=1)
    loaded: dict[str, tuple[dict[str, str], int]] = {}
    for uri in uris:
        found = load_latest(open_store(uri), PREFIX, engines={"denoiser": engine}, ranks=ranks)
        assert found is not None
        loaded[uri] = state(ranks, engine), found["position"]
    return loaded


def resume(ranks: Ranks, setup: Setup, *, uri: str) -> Result:
    """Continues from a checkpoint in a fresh engine, with the clips that come after it."""
    engine = setup.engine(ranks)
    found = load_latest(open_store(uri), PREFIX, engines={"denoiser": engine}, ranks=ranks)
    assert found is not None
    start = found["position"] // CLIPS
    return Result(*train(ranks, engine, start=start, stop=STEPS), state=state(ranks, engine))


def run_and_save_stock(ranks: Ranks, setup: Setup, *, folder: str, save_at: int) -> Any:
    """Trains with a checkpoint of DeepSpeed's own on the way; as ``run_and_save``."""
    engine: Any = setup.engine(ranks)
    first = Result(*train(ranks, engine, start=0, stop=save_at), state=state(ranks, engine))
    engine._engine.save_checkpoint(folder)
    second = Result(*train(ranks, engine, start=save_at, stop=SHORT), state={})
    return first, second


def load_stock(
    ranks: Ranks, setup: Setup, *, folder: str, scratch: str
) -> tuple[Engine, int, dict[str, str]]:
    """An engine that has a checkpoint of DeepSpeed's own, read by our reader; step and state."""
    engine = setup.engine(ranks)
    found = read_stock(Path(folder), tag=None, scratch=Path(scratch) / str(ranks.rank))
    found.check(engine.shapes())
    engine.load(found, applied_steps=found.applied_steps)
    return engine, found.step, state(ranks, engine)


def state_of_stock(ranks: Ranks, setup: Setup, *, folder: str, scratch: str) -> dict[str, str]:
    """The state that ``load_stock`` has come to."""
    return load_stock(ranks, setup, folder=folder, scratch=scratch)[2]


def resume_stock(ranks: Ranks, setup: Setup, *, folder: str, scratch: str) -> tuple[Any, Any, Any]:
    """Continues from a checkpoint of DeepSpeed's own; its step, what was loaded, what came."""
    engine, step, loaded = load_stock(ranks, setup, folder=folder, scratch=scratch)
    resumed = Result(*train(ranks, engine, start=step, stop=SHORT), state={})
    return step, loaded, resumed


def resume_in_deepspeed(ranks: Ranks, setup: Setup, *, folder: str, start: int) -> Result:
    """Continues from a checkpoint of DeepSpeed's own, as DeepSpeed does."""
    engine: Any = setup.engine(ranks)
    engine._engine.load_checkpoint(folder)
    assert engine._engine.global_steps == start
    return Result(*train(ranks, engine, start=start, stop=SHORT), state={})


def export_stock(ranks: Ranks, setup: Setup, *, uri: str, folder: str, step: int) -> None:
    """Turns one of our checkpoints into one of DeepSpeed's own."""
    engine: Any = setup.engine(ranks)
    load_latest(open_store(uri), PREFIX, engines={"denoiser": engine}, ranks=ranks)
    engine.save_stock(Path(folder), step=step, lr=1e-3)


def average_beside(ranks: Ranks, setup: Setup) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The engine's EMA, and one kept of whole masters gathered after every step; rank 0."""
    engine = setup.engine(ranks)
    expected = collect(engine.fragments(), key="fp32", device=ranks.device)
    for step in range(SHORT):
        train(ranks, engine, start=step, stop=step + 1)
        masters = collect(engine.fragments(), key="fp32", device=ranks.device)
        for name, master in masters.items():
            expected[name].lerp_(master, 1.0 - EMA_DECAY)
    return engine.gather_ema(), expected


def peek_at_average(ranks: Ranks, setup: Setup) -> dict[str, Any]:
    """Forward passes with the EMA in the middle of a training, and what they leave behind."""
    engine = setup.engine(ranks)
    before = train(ranks, engine, start=0, stop=3)[0]
    x, time, _ = next(iter(micro_batches(replace(ranks, rank=0, world_size=1), step=0)))
    hashes = state(ranks, engine)
    ema = engine.gather_ema()
    with torch.no_grad():
        trained = engine.module(x, time)
        with engine.ema_weights():
            averaged = engine.module(x, time)
            again = engine.module(x, time)
        back = engine.module(x, time)
    unchanged = state(ranks, engine) == hashes
    after = train(ranks, engine, start=3, stop=SHORT)[0]
    return {
        "losses": before + after,
        "trained": trained,
        "averaged": averaged,
        "again": again,
        "back": back,
        "unchanged": unchanged,
        "expected": _bare_forward(ema, setup=setup, x=x, time=time) if ema else None,
    }


def _bare_forward(ema: dict[str, Tensor], *, setup: Setup, x: Tensor, time: Tensor) -> Tensor:
    """The forward pass of a module without an engine that holds the gathered EMA."""
    module = build(Denoiser)
    module.load_state_dict(ema, strict=False)
    if setup.precision == "bf16":
        for parameter in module.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    with torch.no_grad():
        return module(x, time)


def poisoned(ranks: Ranks, setup: Setup) -> dict[str, Any]:
    """A step whose gradient is not a number, between good ones."""
    engine = setup.engine(ranks)
    first = train(ranks, engine, start=0, stop=2)
    before = state(ranks, engine)
    second = train(ranks, engine, start=2, stop=3, poison=2)
    after = state(ranks, engine)
    third = train(ranks, engine, start=3, stop=SHORT)
    return {
        "applied": first[2] + second[2] + third[2],
        "norm": second[1][0],
        "untouched": before == after,
        "losses": first[0] + third[0],
        "applied_steps": engine.applied_steps,
    }


def adversarial(ranks: Ranks, setup: Setup) -> list[tuple[float, float]]:
    """Two engines in one process; the critic is frozen while it serves the generator's loss."""
    generator = setup.engine(ranks)
    critic = setup.engine(ranks, network=Critic)
    losses: list[tuple[float, float]] = []
    for step in range(5):
        totals = torch.zeros(2)
        for x, time, target in micro_batches(ranks, step=step):
            made = generator(x, time)
            critic.module.requires_grad_(False)
            fooled = -critic.module(made).mean()
            critic.module.requires_grad_(True)
            loss = (made - target).square().mean() + 0.1 * fooled
            generator.backward(loss)
            real, fake = critic(torch.cat([target, made.detach()])).chunk(2)
            judged = (1.0 - real).relu().mean() + (1.0 + fake).relu().mean()
            critic.backward(judged)
            totals += torch.stack([loss.detach(), judged.detach()]) / ACCUMULATION
        assert generator.step(lr=1e-3).applied
        assert critic.step(lr=1e-3).applied
        first, second = (ranks.total(totals) / ranks.world_size).tolist()
        losses.append((first, second))
    return losses


def branching(ranks: Ranks, setup: Setup) -> list[float]:
    """Steps that use a branch in all micro-batches, in none, or only in the second."""
    engine = setup.engine(ranks, network=Branching)
    losses: list[float] = []
    for step, used in enumerate([(True, True), (False, False), (False, True), (True, False)] * 2):
        total = torch.zeros(())
        micros = micro_batches(ranks, step=step)
        for (x, _, target), uses_branch in zip(micros, used, strict=True):
            loss = (engine(x, uses_branch=uses_branch) - target).square().mean()
            total = total + loss.detach() / ACCUMULATION
            engine.backward(loss)
        assert engine.step(lr=1e-2).applied
        losses.append((ranks.total(total) / ranks.world_size).item())
    return losses


def ownership(ranks: Ranks, setup: Setup) -> list[tuple[str, tuple[int, ...], int, int]]:
    """Addresses of the fragments that this rank owns."""
    engine = setup.engine(ranks)
    for fragment in engine.fragments():
        keys: list[StateKey] = list(fragment.tensors)
        assert keys == list(STATE_KEYS)
        for tensor in fragment.tensors.values():
            assert tensor.shape == (fragment.numel,)
            assert tensor.dtype == torch.float32
    return [(one.name, one.shape, one.start, one.numel) for one in engine.fragments()]
