"""Whether a prior's embeddings are nearer to the true images' than what it starts from.

Shape letters: B clips, E width of an embedding.
"""

import torch
from torch import Tensor

from orchestrator.storage.store import Store
from orchestrator.train.cascades import load_prior
from orchestrator.train.evaluation.held_out import read_held_out
from orchestrator.train.evaluation.report import COUNT, Report, publish_report, say_progress
from orchestrator.train.hooks import Hooks
from orchestrator.train.job import StageJob
from orchestrator.train.randomness import seed_of
from orchestrator.train.views import PICTURE


def evaluate_prior(job: StageJob, *, store: Store, hooks: Hooks, device: torch.device) -> Report:
    """Mean cosine of held-out first frames' embeddings with three guesses.

    Returns:
        ``prior``: what it imagines from the caption; ``text``: the caption's own embedding;
        ``mean``: the mean of the true embeddings, which no guess without the caption beats.
    """
    spec = job.spec.evaluate
    assert spec is not None
    stage = job.recipe.stage(spec.model)
    link = load_prior(store, job.recipe, stage=spec.model, device=device)
    held_out = read_held_out(job.recipe, stage, count=spec.prompts)
    pair, captions = link.chain.pair, held_out.captions
    with torch.inference_mode():
        true_BE = pair.image(held_out.pixels[PICTURE][:, :, 0].to(device))
        text_BE = pair.text(pair.tokenize(captions).to(device)).embedding_BE
        seeds = [seed_of(spec.seed, index) for index in range(len(captions))]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        prior_BE = link.sample(captions, generators=generators)
    say_progress(job, hooks, done=len(captions), of=len(captions))
    report: Report = {
        COUNT: len(captions),
        "prior": _cosine(prior_BE, true_BE),
        "text": _cosine(text_BE, true_BE),
        "mean": _cosine(true_BE.mean(dim=0, keepdim=True).expand_as(true_BE), true_BE),
    }
    publish_report(job, store, hooks, report)
    return report


def _cosine(a_BE: Tensor, b_BE: Tensor) -> float:
    return float(torch.cosine_similarity(a_BE, b_BE, dim=-1).mean())
