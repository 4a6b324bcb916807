"""The evaluate stage: held-out prompts, sampled and judged."""

import json
from typing import Any

import numpy as np
import torch

from orchestrator.data.digits.judge import Judge
from orchestrator.data.digits.prompts import held_out_prompts
from orchestrator.storage.store import Store, join_uri, open_store
from orchestrator.train.hooks import Hooks
from orchestrator.train.job import StageJob
from orchestrator.train.pipeline import load_chain
from orchestrator.train.sampling import sample_clips
from orchestrator.train.video import sheet

REPORT = "report.json"
SHOWN = 20  # clips in the picture


def evaluate(job: StageJob, *, hooks: Hooks) -> dict[str, Any]:
    """Samples the held-out prompts, judges them and writes report.json and a picture.

    Returns:
        ``{"digit": share, "colour": share, "direction": share, "prompts": count}``.
    """
    spec = job.spec.evaluate
    assert spec is not None
    store = open_store(job.run)
    device = torch.device("cuda" if job.spec.compute.gpus_per_worker else "cpu")
    train = job.recipe.stage(spec.model).training
    chain = load_chain(store, job.recipe, stage=spec.model, device=device)
    prompts = held_out_prompts(spec.prompts, seed=spec.seed)
    judge = Judge.fit()

    def progress(done: int) -> None:
        hooks.event({"kind": "progress", "stage": job.stage, "step": done, "steps": len(prompts)})

    videos = sample_clips(
        chain,
        [prompt.text for prompt in prompts],
        train=train,
        seed=spec.seed,
        batch=spec.batch,
        on_clips=progress,
    )
    verdicts = [judge.judge(video) for video in videos]
    report = _shares(prompts, verdicts)
    _publish(job, store, hooks, report, videos, prompts)
    return report


def _shares(prompts: Any, verdicts: Any) -> dict[str, Any]:
    report: dict[str, Any] = {"prompts": len(prompts)}
    for attribute in ("digit", "colour", "direction"):
        right = [
            getattr(verdict, attribute) == getattr(prompt, attribute)
            for prompt, verdict in zip(prompts, verdicts, strict=True)
        ]
        report[attribute] = float(np.mean(right))
    return report


def _publish(
    job: StageJob, store: Store, hooks: Hooks, report: dict[str, Any], videos: Any, prompts: Any
) -> None:
    spec = job.spec.evaluate
    assert spec is not None
    fps = job.recipe.stage(spec.model).training.clip.fps
    captions = [prompt.text for prompt in prompts[:SHOWN]]
    for kind, content in sheet(list(videos[:SHOWN]), captions=captions, fps=fps).items():
        store.put(f"{job.folder}/samples.{kind}", content)
    store.put(f"{job.folder}/{REPORT}", json.dumps(report, indent=1).encode())
    shares = {name: value for name, value in report.items() if name != "prompts"}
    hooks.event({"kind": "metrics", "stage": job.stage, "step": 0, "values": shares})
    for name in ("samples.gif", "samples.mp4", REPORT):
        uri = join_uri(job.run, job.folder, name)
        hooks.event({"kind": "artifact", "stage": job.stage, "uri": uri, "folder": "evaluation"})
