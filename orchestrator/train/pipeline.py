"""Finished networks of a run, put together for encoding and sampling."""

import torch

from models.diffusion.objective import build_objective
from models.sora.autoencoder import VideoAutoencoder
from models.sora.model import TextToVideo
from models.sora.sample import SoraChain
from models.text.encoder import TextEncoder
from models.text.pair import ImageTextPair
from models.text.pair_config import SmallPairConfig
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.recipe.train import Train
from orchestrator.storage.store import Store
from orchestrator.train.encoders import load_encoders, load_text
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


def load_pair(store: Store, recipe: Recipe, *, stage: Stage, device: torch.device) -> ImageTextPair:
    """The encoders behind a stage's image embeddings, frozen: trained by a stage, or pretrained.

    Raises:
        UserError: if that stage has not finished.
    """
    if stage.pair is None:
        assert recipe.pair is not None
        pair = load_encoders(recipe.pair)
    else:
        config = recipe.stage(stage.pair).training.model
        assert isinstance(config, SmallPairConfig)
        pair = load_encoders(config)
        load_into(pair, read_weights(store, stage=stage.pair), stage=stage.pair)
    return pair.eval().requires_grad_(False).to(device)


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
    text = load_text(recipe.text)
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
    train: Train, *, model: TextToVideo, autoencoder: VideoAutoencoder, text: TextEncoder | None
) -> SoraChain:
    """A sampling chain around networks that are already in memory.

    Args:
        train: the denoiser's stage, for its objective.
        model: a TextToVideo, with its text encoder if that is trained along.
        autoencoder: frozen, on the same device.
        text: the frozen text encoder; not used if the model has its own.
    """
    encoder = model.text if model.text is not None else text
    assert encoder is not None
    return SoraChain(
        autoencoder=autoencoder,
        dit=model.dit,
        text=encoder,
        objective=build_objective(train.diffusion),
    )
