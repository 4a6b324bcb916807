"""What ranks of a gang are told to do: optimizer steps under the eye of torch's allocator."""

import gc
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
    gc.collect()
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
            begun = torch.empty(MARK_BYTES, dtype=torch.uint8)
            del begun
            for _ in range(accumulation):
                outputs = engine(*real(case.inputs, clips=clips))
                engine.backward(sum(one.float().square().mean() for one in _tensors(outputs)))
                del outputs
            engine.step(lr=1e-3)
    del engine
    gc.collect()
    return _peak(seen)


def _peak(seen: profile) -> int:
    """Of the steps.

    The profiler misses what a thread of gloo frees, which adds to all that follows: it is taken off
    again at the next mark, and the step that is least disturbed counts.
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
    between, of_steps = marks[2:], peaks[2:]  # before are building, and a step without moments
    assert len(of_steps) == STEPS - 1
    return min(peak - mark + min(between) for peak, mark in zip(of_steps, between, strict=True))


def _tensors(outputs: object) -> Iterable[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, tuple):
        return [one for part in outputs for one in _tensors(part)]
    return [one for one in vars(outputs).values() if isinstance(one, Tensor)]
