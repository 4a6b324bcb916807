"""Finished networks of a run, put together for encoding and sampling."""

import torch

from models.diffusion.objective import build_objective
from models.sora.autoencoder import VideoAutoencoder
from models.sora.model import TextToVideo
from models.sora.sample import SoraChain
from models.text.encoder import TextEncoder, build_text_encoder
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.train import Train
from orchestrator.storage.store import Store
from orchestrator.train.weights import load_into, read_weights


def load_autoencoder(
    store: Store, recipe: Recipe, *, stage: str, device: torch.device
) -> VideoAutoencoder:
    """The autoencoder that a stage trained, frozen, with its latent statistics.

    Raises:
        UserError: if that stage has not finished.
    """
    autoencoder = VideoAutoencoder(recipe.stage(stage).training.autoencoder)
    load_into(autoencoder, read_weights(store, stage=stage), stage=stage)
    return autoencoder.eval().requires_grad_(False).to(device)


def load_chain(store: Store, recipe: Recipe, *, stage: str, device: torch.device) -> SoraChain:
    """Everything between a prompt and its video, from a finished run.

    Args:
        store: the run's folder.
        recipe: the run's recipe.
        stage: the stage that trained the diffusion transformer.
        device: where to sample.

    Raises:
        UserError: if a stage has not finished.
    """
    spec = recipe.stage(stage)
    train = spec.training
    source = recipe.autoencoder_of(spec)
    autoencoder = load_autoencoder(store, recipe, stage=source.id, device=device)
    text = build_text_encoder(recipe.text)
    model = TextToVideo(
        train.dit,
        channels=source.training.autoencoder.latent_channels,
        text_width=text.width,
        text=text if text.trainable else None,
    )
    load_into(model, read_weights(store, stage=stage), stage=stage)
    model.eval().requires_grad_(False).to(device)
    return assemble(train, model=model, autoencoder=autoencoder, text=text.to(device))


def assemble(
    train: Train, *, model: TextToVideo, autoencoder: VideoAutoencoder, text: TextEncoder
) -> SoraChain:
    """A sampling chain around networks that are already in memory.

    Args:
        train: the denoiser's stage, for its objective.
        model: a TextToVideo, with its text encoder if that is trained along.
        autoencoder: frozen, on the same device.
        text: the frozen text encoder; not used if the model has its own.
    """
    return SoraChain(
        autoencoder=autoencoder,
        dit=model.dit,
        text=model.text if model.text is not None else text,
        objective=build_objective(train.diffusion),
    )
