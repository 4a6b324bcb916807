"""One rank of checkpoint.py: a trainer, and each way to save and load what it trains."""

import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse

from models.sora.dit import VideoDiT
from models.sora.dit_config import DiTConfig
from models.text.states import TextStates
from orchestrator.recipe.train import Optim, Save
from orchestrator.storage.store import open_store
from orchestrator.train.checkpoint.load import load_latest
from orchestrator.train.checkpoint.pace import Pace
from orchestrator.train.checkpoint.save import Saver
from orchestrator.train.engine.build import build_engine
from orchestrator.train.exchange import gather_json
from orchestrator.train.ownership import Ownership
from orchestrator.train.ranks import Ranks, join

WAYS = ("rushes", "deepspeed", "dcp")
CONFIGS = {
    "10M": DiTConfig(depth=6, width=256, heads=4, patch=(1, 2, 2)),
    "100M": DiTConfig(depth=12, width=640, heads=10, patch=(1, 2, 2)),
    "1B": DiTConfig(depth=28, width=1344, heads=21, patch=(1, 2, 2)),
}
CHANNELS, TEXT_TOKENS, TEXT_WIDTH = 16, 8, 64
GRIDS = {"cpu": (2, 8, 8), "cuda": (9, 32, 32)}  # latent frames, height, width
PLAIN_STEPS = 4  # before each save
LOADS = 3
FOLDER = "stages/dit"


@dataclass(frozen=True)
class Round:
    """One save.

    Attributes:
        blocked_s: what training waited for it: the call itself, the copy before the next update,
            and every later call that asks how far it is.
        written_s: from its begin until all is there.
        step_ratio: mean step while it was written over the mean of those right before; None if
            nothing was left to write.
    """

    blocked_s: float
    written_s: float
    step_ratio: float | None


class Trainer:
    """A network in its engine, on one rank, and one step on the same random clips."""

    def __init__(self, ranks: Ranks, *, config: DiTConfig, grid: tuple[int, int, int]) -> None:
        self.ranks = ranks
        self.zero = 2 if find_spec("deepspeed") and ranks.device.type == "cpu" else 0
        self.precision = "bf16" if ranks.device.type == "cuda" else "fp32"
        torch.manual_seed(0)
        module = VideoDiT(config, channels=CHANNELS, text_width=TEXT_WIDTH).to(ranks.device)
        self.engine = build_engine(
            module,
            kind="deepspeed" if self.zero else "plain",
            zero=self.zero,
            precision=self.precision,
            optim=Optim(lr=1e-4),
            accumulation=1,
            ema_decay=0.999,
            device=ranks.device,
        )
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self._x = torch.randn(1, CHANNELS, *grid, dtype=dtype).to(ranks.device)
        self._time = torch.tensor([0.5], device=ranks.device)
        self._text = TextStates(
            tokens_BLD=torch.randn(1, TEXT_TOKENS, TEXT_WIDTH),
            mask_BL=torch.ones(1, TEXT_TOKENS, dtype=torch.bool),
            pooled_BD=torch.randn(1, TEXT_WIDTH),
        ).to(ranks.device)

    def step(self, before_update: Callable[[], None] = lambda: None) -> None:
        """One optimizer step.

        Args:
            before_update: called before the engine's state changes.
        """
        found = self.engine(self._x, self._time, self._text)
        self.engine.backward((found - self._x).float().square().mean())
        before_update()
        self.engine.step(lr=1e-4)
        self.wait()

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class UnderWay:
    """A save that is written beside training.

    Attributes:
        wait_for_copy: returns once the engine's state may change.
        idle: whether this rank has nothing to do for it.
        goes_on: told after every step whether that holds for all ranks; whether all is written.
    """

    wait_for_copy: Callable[[], object]
    idle: Callable[[], bool]
    goes_on: Callable[[bool], bool]


class Ways:
    """Each way to save, and to load."""

    def __init__(self, trainer: Trainer, *, folder: Path) -> None:
        self._trainer, self._folder = trainer, folder
        self._store = open_store(str(folder / "rushes"))
        ownership = Ownership(self._store, FOLDER, attempt=1)
        if trainer.ranks.rank == 0:
            ownership.take()
        self._saver = Saver(
            self._store,
            f"{FOLDER}/checkpoints",
            engines={"dit": trainer.engine},
            ranks=trainer.ranks,
            save=Save(keep=1),
            ownership=ownership,
        )
        self.pace = Pace(Save(keep=1), log_every=1, ranks=trainer.ranks, saver=self._saver)
        # Reused, so that its host memory is allocated once; pinned where there is a GPU. Staging
        # in the background needs CUDA, its documentation says.
        on_gpu = trainer.ranks.device.type == "cuda"
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=on_gpu,
                use_shared_memory=False,
                use_async_staging=on_gpu,
                use_non_blocking_copy=on_gpu,
            )
        )
        # Its thread's collectives must not mix with those of training.
        self._group = dist.new_group(backend="gloo")
        self._step = 0

    def begin(self, way: str) -> UnderWay | None:
        """Starts a save; None if it has come to its end as well."""
        self._step += 1
        match way:
            case "rushes":
                self.pace.begins_save(self._step)
                self._saver.begin(step=self._step, extra={})
                return UnderWay(
                    wait_for_copy=self._saver.wait_for_copy,
                    idle=lambda: self._saver.is_idle,
                    goes_on=self._saver.poll,
                )
            case "deepspeed":
                engine: Any = self._trainer.engine
                with silent():
                    engine._engine.save_checkpoint(str(self._folder / way), tag="t")
                return None
            case _:
                found: Any = dcp.async_save(
                    self._state(),
                    storage_writer=dcp.FileSystemWriter(self._folder / way),
                    async_stager=self._stager,
                    process_group=self._group,
                )
                is_staged = not isinstance(found, AsyncSaveResponse)
                return UnderWay(
                    wait_for_copy=(lambda: None) if is_staged else found.staging_completion.result,
                    idle=(found if is_staged else found.upload_completion).done,
                    goes_on=lambda all_idle: all_idle,
                )

    def load(self, way: str) -> None:
        """Puts what was saved last back into the engine."""
        match way:
            case "rushes":
                load_latest(
                    self._store,
                    f"{FOLDER}/checkpoints",
                    engines={"dit": self._trainer.engine},
                    ranks=self._trainer.ranks,
                )
            case "deepspeed":
                engine: Any = self._trainer.engine
                with silent():
                    engine._engine.load_checkpoint(str(self._folder / way), tag="t")
            case _:
                reader = dcp.FileSystemReader(self._folder / way)
                dcp.load(self._state(), storage_reader=reader, process_group=self._group)

    def bytes(self, way: str) -> int:
        """What the last save of this way takes on disk."""
        return sum(file.stat().st_size for file in self._files(way))

    def forget(self, way: str) -> None:
        """Lets the system drop what it holds of the files: a restart is often on another node."""
        for file in self._files(way) if self._trainer.ranks.rank == 0 else ():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._trainer.ranks.barrier()

    def _files(self, way: str) -> list[Path]:
        return [file for file in (self._folder / way).rglob("*") if file.is_file()]

    def _state(self) -> dict[str, torch.Tensor]:
        """What the saver writes: the slices that this rank owns."""
        return {
            f"{one.name}/{one.start}/{key}": tensor.detach()
            for one in self._trainer.engine.fragments()
            for key, tensor in one.tensors.items()
        }


def measure(
    *, device: str, model: str, rounds: int, ways: Sequence[str] | None, folder: Path
) -> None:
    """One rank; rank 0 writes the figures to result.json."""
    warnings.filterwarnings("ignore", message="Detected an existing checkpoint")
    torch.set_num_threads(1 if device == "cpu" else 4)
    ranks = join(gpus=int(device == "cuda"))
    with silent():
        trainer = Trainer(ranks, config=CONFIGS[model], grid=GRIDS[device])
    ways = [way for way in ways or WAYS if way != "deepspeed" or trainer.zero]
    if device == "cpu":
        torch.set_num_threads(1)  # DeepSpeed has its own idea
    all_ways = Ways(trainer, folder=folder)
    plain: list[float] = []
    for _ in range(PLAIN_STEPS):  # the first ones are slow
        trainer.step()
    found: dict[str, list[Round]] = {way: [] for way in ways}
    for number in range(rounds + 1):  # the first one warms up
        for way in ways if number % 2 else reversed(ways):
            _settle(ranks)
            before = [_step(trainer, all_ways).took_s for _ in range(PLAIN_STEPS)]
            one = _saved(trainer, all_ways, way, plain_s=statistics.fmean(before))
            found[way].append(one)
            plain += before
            if ranks.rank == 0:
                print(f"round {number}: {way} {one}", file=sys.stderr, flush=True)
    loads: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(LOADS):
        for way in ways:
            _settle(ranks)
            all_ways.forget(way)
            start_s = time.perf_counter()
            all_ways.load(way)
            trainer.wait()
            loads[way].append(_slowest(time.perf_counter() - start_s, ranks=ranks))
    result = {
        "parameters": trainer.engine.num_params,
        "engine": f"ZeRO-{trainer.zero}, {trainer.precision}",
        "step_s": statistics.median(plain),
        "first_s": {way: one[0].blocked_s for way, one in found.items()},
        "rounds": {way: [asdict(one) for one in some[1:]] for way, some in found.items()},
        "loads_s": loads,
        "bytes": {way: all_ways.bytes(way) for way in ways},
    }
    if ranks.rank == 0:
        (folder / "result.json").write_text(json.dumps(result))
    ranks.barrier()
    dist.destroy_process_group()


def _saved(trainer: Trainer, ways: Ways, way: str, *, plain_s: float) -> Round:
    start_s = time.perf_counter()
    save = ways.begin(way)
    blocked_s = time.perf_counter() - start_s
    steps_s: list[float] = []
    is_written = save is None
    while not is_written:
        step = _step(trainer, ways, save)
        steps_s.append(step.took_s)
        asked_s = time.perf_counter()
        is_written = save is None or save.goes_on(step.all_idle)
        blocked_s += step.waited_s + time.perf_counter() - asked_s
    ratio = statistics.fmean(steps_s) / plain_s if steps_s else None
    return Round(
        blocked_s=_slowest(blocked_s, ranks=trainer.ranks),
        written_s=time.perf_counter() - start_s,
        step_ratio=ratio,
    )


@dataclass(frozen=True)
class _Step:
    took_s: float  # without what it waited for
    waited_s: float  # for the copy of a save
    all_idle: bool


def _step(trainer: Trainer, ways: Ways, save: UnderWay | None = None) -> _Step:
    """As in training: ours sees how long steps take, and ranks exchange two numbers after each."""
    waited_s = 0.0

    def wait() -> None:
        nonlocal waited_s
        began_s = time.perf_counter()
        if save is not None:
            save.wait_for_copy()
        waited_s = time.perf_counter() - began_s

    ways.pace.step_begins()
    start_s = time.perf_counter()
    trainer.step(before_update=wait)
    _, all_idle = trainer.ranks.agree(0, save is None or save.idle())
    took_s = time.perf_counter() - start_s - waited_s
    ways.pace.step_ended()
    return _Step(took_s=took_s, waited_s=waited_s, all_idle=all_idle)


def _slowest(seconds: float, *, ranks: Ranks) -> float:
    """What training waits for: the slowest rank."""
    return max(gather_json(seconds, device=ranks.device))


def _settle(ranks: Ranks) -> None:
    """All that was written is on disk, and all ranks are here."""
    os.sync()
    ranks.barrier()


@contextmanager
def silent() -> Iterator[None]:
    """DeepSpeed prints what it does, past every logger."""
    saved = os.dup(1)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(saved, 1)
            os.close(saved)
