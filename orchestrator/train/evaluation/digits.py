"""Whether sampled clips show the digit, colour and direction that their prompt asks for."""

from collections.abc import Sequence

import numpy as np
import torch

from orchestrator.data.digits.judge import Judge, Verdict
from orchestrator.data.digits.prompts import Prompt, held_out_prompts
from orchestrator.storage.store import Store
from orchestrator.train.evaluation.report import (
    COUNT,
    Report,
    publish_clips,
    publish_report,
    say_progress,
)
from orchestrator.train.hooks import Hooks
from orchestrator.train.job import StageJob
from orchestrator.train.sampling import load_sampler

SHOWN = 20  # clips in the picture
SHARES = ("digit", "colour", "direction")  # of the report


def evaluate_digits(job: StageJob, *, store: Store, hooks: Hooks, device: torch.device) -> Report:
    """Samples the held-out prompts through the whole chain and judges the clips.

    Returns:
        ``{"digit": share, "colour": share, "direction": share, "prompts": count}``.
    """
    spec = job.spec.evaluate
    assert spec is not None
    sampler = load_sampler(
        store, job.recipe, stage=spec.model, distilled=spec.distilled, device=device
    )
    prompts = held_out_prompts(spec.prompts, seed=spec.seed)
    judge = Judge.fit()
    clips = sampler.sample(
        [prompt.text for prompt in prompts],
        seed=spec.seed,
        batch=spec.batch,
        on_clips=lambda done: say_progress(job, hooks, done=done, of=len(prompts)),
    )
    videos = clips[sampler.networks[-1]]
    report = _shares(prompts, [judge.judge(video) for video in videos])
    captions = [prompt.text for prompt in prompts[:SHOWN]]
    publish_clips(job, store, hooks, list(videos[:SHOWN]), captions=captions, fps=sampler.fps)
    publish_report(job, store, hooks, report)
    return report


def _shares(prompts: Sequence[Prompt], verdicts: Sequence[Verdict]) -> Report:
    report: Report = {COUNT: len(prompts)}
    for attribute in SHARES:
        right = [
            getattr(verdict, attribute) == getattr(prompt, attribute)
            for prompt, verdict in zip(prompts, verdicts, strict=True)
        ]
        report[attribute] = float(np.mean(right))
    return report
