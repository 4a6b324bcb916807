"""What ranks of a gang are told to do: optimizer steps under the eye of torch's allocator."""

import gc
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from models.nn.unet_config import UNetConfig
from models.sora.autoencoder_config import AutoencoderConfig
from models.sora.dit_config import DiTConfig
from orchestrator.recipe.train import Optim
from orchestrator.train.engine.build import build_engine
from orchestrator.train.ranks import Ranks
from tests.plan.networks import Case, autoencoder_case, dit_case, real, unet_case

CASES: dict[str, Case] = {
    "dit": dit_case(DiTConfig(width=192, heads=4, depth=4)),
    "unet": unet_case(
        UNetConfig(width=64, mults=(1, 2), blocks=2, attention=(1,), low_resolution=True)
    ),
    "autoencoder": autoencoder_case(AutoencoderConfig(latent_channels=4, width=32, blocks=1)),
}
STEPS = 3
MARK_BYTES = 1_234_560  # says where a step begins: no other tensor is as large


def peak_bytes(
    ranks: Ranks, *, network: str, zero: int, precision: str, accumulation: int, clips: int
) -> int:
    """The most that torch's allocator held in a step, once there are moments."""
    case = CASES[network]
    before = _alive()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        engine = build_engine(
            case.build(),
            kind="deepspeed",
            zero=zero,
            precision=precision,  # pyright: ignore[reportArgumentType]
            optim=Optim(lr=1e-3),
            accumulation=accumulation,
            ema_decay=0.9,
            device=ranks.device,
        )
        for _ in range(STEPS):
            _mark()
            for _ in range(accumulation):
                outputs = engine(*real(case.inputs, clips=clips))
                engine.backward(sum(one.float().square().mean() for one in _tensors(outputs)))
                del outputs
            engine.step(lr=1e-3)
        _mark()
        del engine
        after = _alive()
    return _peak(seen, left=sum(after[place] for place in after.keys() - before.keys()))


def _mark() -> None:
    torch.empty(MARK_BYTES, dtype=torch.uint8)


def _alive() -> dict[int, int]:
    """Bytes of the storages of all tensors, by their place."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is deprecated and looked at here
        tensors = [one for one in gc.get_objects() if isinstance(one, Tensor)]
    storages = [one.untyped_storage() for one in tensors if one.device.type == "cpu"]
    return {one.data_ptr(): one.nbytes() for one in storages}


def _peak(seen: profile, *, left: int) -> int:
    """Of the steps.

    The profiler misses what a thread of gloo frees, which adds to all that follows. So what an
    engine holds between two steps is what is freed with it, by this thread, and what it leaves
    behind (DeepSpeed's does); and of what a step takes beside, the least disturbed one counts.

    Args:
        seen: everything from before the engine was built until it was deleted.
        left: bytes that were alive then and not before.
    """
    events = [
        event
        for event in seen.profiler.kineto_results.events()  # pyright: ignore
        if event.name() == "[memory]"
    ]
    total, marks, peaks = 0, [0], [0]
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        if event.nbytes() == MARK_BYTES:
            marks.append(total - MARK_BYTES)
            peaks.append(0)
        else:
            peaks[-1] = max(peaks[-1], total)
    assert len(marks) == STEPS + 2
    held = marks[-1] - total + left
    # Before are building, and a step without moments.
    of_steps = zip(peaks[2:-1], marks[2:-1], strict=True)
    return held + min(peak - mark for peak, mark in of_steps)


def _tensors(outputs: object) -> Iterable[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, tuple):
        return [one for part in outputs for one in _tensors(part)]
    return [one for one in vars(outputs).values() if isinstance(one, Tensor)]
