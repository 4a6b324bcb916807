"""Finished networks of pixels, put together for sampling."""

import torch

from models.cascade.chain import Cascade, PriorLink
from models.cascade.link import Link
from models.cascade.model import CaptionedUNet
from models.diffusion.augmentation import as_cosine
from models.diffusion.augmentation_config import AugmentationConfig
from models.diffusion.objective import build_objective
from models.make_a_video.sample_prior import PriorChain
from models.text.encoder import TextEncoder
from orchestrator.recipe.chain import upsampling
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.storage.store import Store
from orchestrator.train.pipeline import load_pair
from orchestrator.train.tasks.pixels import build_frozen_text, load_unet
from orchestrator.train.tasks.prior import build_prior
from orchestrator.train.weights import load_into, read_weights


def load_cascade(
    store: Store, recipe: Recipe, *, last: str, distilled: bool, device: torch.device
) -> Cascade:
    """Every network between a prompt and the clips of a stage, from a finished run.

    Raises:
        UserError: if a stage has not finished.
    """
    stages = recipe.chain(last, distilled=distilled)
    first = stages[0]
    prior = None
    if first.prior is not None:
        prior = load_prior(store, recipe, stage=first.prior, device=device)
    reads_text = any(stage.training.unet.text for stage in stages)
    frozen = build_frozen_text(recipe, device=device) if reads_text else None
    links = [
        load_link(store, recipe, stage=stage, frozen=frozen, device=device) for stage in stages
    ]
    return Cascade(links=tuple(links), prior=prior, device=device)


def load_link(
    store: Store,
    recipe: Recipe,
    *,
    stage: Stage,
    frozen: TextEncoder | None,
    device: torch.device,
) -> Link:
    """One finished network, still on the CPU, and how it is sampled on a device.

    On a GPU its weights have the precision that they were trained in; on a CPU they are float32,
    which is the faster there.
    """
    model = load_unet(recipe, stage, read_weights(store, stage=stage.id), frozen=frozen)
    if device.type == "cuda" and stage.training.precision == "bf16":
        model.to(torch.bfloat16)
    return link_of(recipe, stage, model=model, text=frozen)


def link_of(
    recipe: Recipe, stage: Stage, *, model: CaptionedUNet, text: TextEncoder | None
) -> Link:
    """A network that is in memory already, and how it is sampled."""
    train = stage.training
    step = None
    if stage.upsamples is not None:
        step = upsampling(stage, parent=recipe.stage(stage.upsamples))
    return Link(
        model=model,
        text=text,
        objective=build_objective(train.diffusion),
        sampler=train.sampler,
        frames=train.clip.frames,
        size=train.clip.size,
        fps=train.clip.fps,
        step="start" if step is None else step.kind,
        factor=1 if step is None else step.factor,
        missing=train.missing,
        level=0.0 if train.augmentation is None else _level(train.augmentation),
    )


def _level(augmentation: AugmentationConfig) -> float:
    level_1 = torch.tensor([augmentation.level], dtype=torch.float64)
    return as_cosine(level_1, schedule=augmentation.schedule).item()


def load_prior(store: Store, recipe: Recipe, *, stage: str, device: torch.device) -> PriorLink:
    """A finished prior and the pair whose embeddings it imagines."""
    spec = recipe.stage(stage)
    pair = load_pair(store, recipe, stage=spec, device=device)
    prior = build_prior(spec.training.model, pair=pair)
    load_into(prior, read_weights(store, stage=stage), stage=stage)
    prior.eval().requires_grad_(False).to(device)
    objective = build_objective(spec.training.diffusion)
    chain = PriorChain(pair=pair, prior=prior, objective=objective)
    return PriorLink(chain=chain, sampler=spec.training.sampler)
