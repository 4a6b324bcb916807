"""Whether each upsampling network of a chain is worth more than interpolation.

Shape letters: B clips, T frames, H W height and width, N frames of any clips.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.cascade.link import Link, Request
from models.nn.causal_conv import fold_frames
from models.sora.autoencoder_config import PerceptualConfig
from models.sora.perceptual import PerceptualDistance
from models.text.states import TextEncoder
from orchestrator.errors import UserError
from orchestrator.recipe.stage import Stage
from orchestrator.storage.store import Store
from orchestrator.train.cascades import load_link
from orchestrator.train.evaluation.baselines import bicubic, blend, repeat
from orchestrator.train.evaluation.held_out import HeldOut, read_held_out
from orchestrator.train.evaluation.report import (
    COUNT,
    Report,
    publish_clips,
    publish_report,
    say_progress,
)
from orchestrator.train.hooks import Hooks
from orchestrator.train.job import StageJob
from orchestrator.train.pipeline import load_pair
from orchestrator.train.pixels import to_uint8
from orchestrator.train.randomness import seed_of
from orchestrator.train.sheets import same_size
from orchestrator.train.tasks.pixels import build_frozen_text
from orchestrator.train.views import FRAMES, LOW, PICTURE

NETWORK = "network"
SHOWN = 2  # clips of each network in the picture


@dataclass(frozen=True)
class _Trial:
    """Held-out clips that were made small, and what came of them, by who enlarged them."""

    small: Tensor
    true: Tensor
    enlarged: dict[str, Tensor]
    slower: int  # how many times as long a frame of the small clip lasts


def evaluate_upsamplers(
    job: StageJob, *, store: Store, hooks: Hooks, device: torch.device
) -> Report:
    """Compares every upsampling network of the chain with interpolation on held-out clips.

    Returns:
        Peak signal-to-noise ratios in dB, mean over clips: ``ID/network``, and ``ID/bicubic``
        for a network of space, ``ID/repeat`` and ``ID/blend`` for one of time. With weights for
        it, the perceptual distance under the same names with ``-lpips``.

    Raises:
        UserError: if a stage has not finished, or those weights cannot be read or do not fit.
    """
    spec = job.spec.evaluate
    assert spec is not None
    stages = [one for one in job.recipe.chain(spec.model) if one.upsamples is not None]
    perceptual = None if spec.perceptual is None else _perceptual(job, spec.perceptual).to(device)
    report: Report = {COUNT: spec.prompts}
    trials: dict[str, _Trial] = {}
    reads_text = any(stage.training.unet.text for stage in stages)
    frozen = build_frozen_text(job.recipe, device=device) if reads_text else None
    for number, stage in enumerate(stages):
        trial = _try(job, stage, store=store, device=device, frozen=frozen)
        trials[stage.id] = trial
        report[COUNT] = len(trial.true)
        for name, clips in trial.enlarged.items():
            report[f"{stage.id}/{name}"] = psnr(clips, trial.true)
            if perceptual is not None:
                report[f"{stage.id}/{name}-lpips"] = lpips(
                    clips, trial.true, distance=perceptual, batch=spec.batch, device=device
                )
        say_progress(job, hooks, done=number + 1, of=len(stages))
    _show(job, trials, store=store, hooks=hooks)
    publish_report(job, store, hooks, report)
    return report


def psnr(x_B3THW: Tensor, true_B3THW: Tensor) -> float:
    """Mean over clips of the peak signal-to-noise ratio of pixels in [-1, 1], dB."""
    error_B = (x_B3THW - true_B3THW).square().flatten(1).mean(dim=1).clamp_min(1e-10)
    return float((10 * torch.log10(4.0 / error_B)).mean())


@torch.inference_mode()
def lpips(
    x_B3THW: Tensor,
    true_B3THW: Tensor,
    *,
    distance: PerceptualDistance,
    batch: int,
    device: torch.device,
) -> float:
    """Mean over frames of the perceptual distance of pixels in [-1, 1], ``batch`` frames at once.

    Features of all frames of large clips would not fit into memory.
    """
    total, frames = 0.0, len(x_B3THW) * x_B3THW.shape[2]
    for clips in zip(x_B3THW.split(batch), true_B3THW.split(batch), strict=True):
        parts = (fold_frames(clip).unsqueeze(2).split(batch) for clip in clips)
        for x_N31HW, true_N31HW in zip(*parts, strict=True):
            total += len(x_N31HW) * float(distance(x_N31HW.to(device), true_N31HW.to(device)))
    return total / frames


def _perceptual(job: StageJob, path: str) -> PerceptualDistance:
    field = f"stages.{job.stage}.evaluate.perceptual"
    try:
        return PerceptualDistance(PerceptualConfig(path=path), field=field)
    except ValueError as error:
        raise UserError(str(error)) from None


def _try(
    job: StageJob,
    stage: Stage,
    *,
    store: Store,
    device: torch.device,
    frozen: TextEncoder | None,
) -> _Trial:
    spec = job.spec.evaluate
    assert spec is not None
    held_out = read_held_out(job.recipe, stage, count=spec.prompts)
    link = load_link(store, job.recipe, stage=stage, frozen=frozen, device=device)
    link.model.to(device)
    small, true = _small(link, held_out), held_out.pixels[FRAMES]
    embedding = None
    if PICTURE in held_out.pixels:
        pair = load_pair(store, job.recipe, stage=stage, device=device)
        embedding = pair.image(held_out.pixels[PICTURE][:, :, 0].to(device))
    parts: list[Tensor] = []
    for first in range(0, len(true), spec.batch):
        part = slice(first, first + spec.batch)
        seeds = [seed_of(spec.seed, row) for row in range(len(true))[part]]
        request = Request(
            prompts=held_out.captions[part],
            generators=[torch.Generator().manual_seed(seed) for seed in seeds],
            embedding_BE=None if embedding is None else embedding[part],
        )
        parts.append(link.sample(request, small[part]).cpu())
    enlarged = {NETWORK: torch.cat(parts)}
    if link.step == "space":
        enlarged["bicubic"] = bicubic(small, size=link.size)
    else:
        enlarged["repeat"] = repeat(small, factor=link.factor, frames=link.frames)
        enlarged["blend"] = blend(small, factor=link.factor, frames=link.frames)
    slower = 1 if link.step == "space" else link.factor
    return _Trial(small=small, true=true, enlarged=enlarged, slower=slower)


def _small(link: Link, held_out: HeldOut) -> Tensor:
    """What the network starts from."""
    if link.step == "space":
        return held_out.pixels[LOW]
    return held_out.pixels[FRAMES][:, :, :: link.factor]


def _show(job: StageJob, trials: dict[str, _Trial], *, store: Store, hooks: Hooks) -> None:
    """A row per network and clip: the small one, the network's, interpolation's, the true one."""
    clips: list[Tensor] = []
    captions: list[str] = []
    rates: list[float] = []
    for name, trial in trials.items():
        plain = list(trial.enlarged)[-1]
        shown = {"small": trial.small, NETWORK: trial.enlarged[NETWORK]}
        shown |= {plain: trial.enlarged[plain], "true": trial.true}
        fps = job.recipe.stage(name).training.clip.fps
        for row in range(min(SHOWN, len(trial.true))):
            clips += [one[row] for one in shown.values()]
            captions += [f"{name}: {one}" for one in shown]
            rates += [fps / trial.slower, fps, fps, fps]
    frames = [to_uint8(clip[None])[0] for clip in clips]
    tiles = same_size(frames, fps=rates)
    publish_clips(job, store, hooks, tiles, captions=captions, fps=max(rates), columns=4)
