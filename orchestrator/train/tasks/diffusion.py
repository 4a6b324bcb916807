"""Training the diffusion transformer on latents and captions."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from models.diffusion.objective import build_objective
from models.nn.sequence import TokenGroup
from models.sora.autoencoder_config import AutoencoderConfig
from models.sora.dit import Condition
from models.sora.flops import dit_flops
from models.sora.model import TextToVideo
from models.text.config import Byt5Config
from models.text.encoder import TextEncoder, TextStates, Tokens
from models.text.states import EMPTY_CAPTION
from orchestrator.data.index import Bucket
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.train.encoders import load_text
from orchestrator.train.tasks.base import Forward, Loss, Micro, Work
from orchestrator.train.tasks.timed import TimedLoss
from orchestrator.train.text_states import TextTable
from orchestrator.train.transfer import on_device, record_on_device, stacked_on_device
from orchestrator.train.weights import load_into

DENOISER = "denoiser"


class DiffusionTask:
    """The objective's loss on latents, with dropped captions and given first frames."""

    def __init__(
        self, recipe: Recipe, stage: Stage, *, device: torch.device, frozen: TextTable | None
    ) -> None:
        train, model = stage.training, stage.training.dit
        autoencoder = recipe.autoencoder_config(stage)
        self._train = train
        self._recipe = recipe
        self._device = device
        self._frozen = frozen
        self._objective = build_objective(train.diffusion)
        text = load_text(recipe.text) if frozen is None else None
        self._text: TextEncoder | None = text
        self._denoiser = TextToVideo(
            model,
            channels=autoencoder.latent_channels,
            text_width=text.width if text is not None else _width(frozen),
            text=text,
        )
        self.networks: dict[str, nn.Module] = {DENOISER: self._denoiser}
        self._autoencoder = autoencoder
        self._text_tokens = _typical_tokens(recipe, text, frozen)

    def share_tokens(self, group: TokenGroup) -> None:
        """From now on the ranks of a group compute each clip together."""
        self._denoiser.dit.share_tokens(group)

    def work(self, bucket: Bucket) -> Work:
        """The transformer's, with a caption of typical length."""
        model = self._train.dit
        grid = _grid(bucket, self._autoencoder)
        flops = dit_flops(
            model,
            channels=self._autoencoder.latent_channels,
            grid=grid,
            text_tokens=self._text_tokens,
            text_width=self._denoiser.dit.text_width,
        )
        return Work(units=prod(grid) // prod(model.patch), flops=3 * flops)

    def blocks(self) -> list[nn.Module]:
        """The transformer's blocks."""
        return self._denoiser.dit.blocks()

    def is_active(self, network: str, *, step: int) -> bool:
        """The denoiser always trains."""
        return network == DENOISER

    def loss(self, network: str, engines: Mapping[str, Forward], micro: Micro) -> Loss:
        """Mean over clips of the objective's loss."""
        x_BCTHW = self._latents(micro)
        t_B = self._objective.sample_time(self._moved(micro.random.uniform()))
        noise = self._moved(micro.random.normal(x_BCTHW.shape[1:]))
        text = self._captions(micro)
        condition = self._given_frames(x_BCTHW, micro)
        noisy = self._objective.corrupt(x_BCTHW, noise, t_B)
        prediction = engines[DENOISER](noisy, t_B, text, condition)
        given = None if condition is None else condition.mask_B1THW
        loss_B = self._objective.loss(
            prediction, x_BCTHW, noise, t_B, weight=None if given is None else 1.0 - given
        )
        return TimedLoss(loss_B, t_B).mean()

    def _latents(self, micro: Micro) -> Tensor:
        frames = 1 if micro.images else None
        latents = [sample["latent"][:, :frames] for sample in micro.samples]
        return stacked_on_device(latents, device=self._device).float()

    def _moved(self, x: Tensor) -> Tensor:
        return on_device(x, device=self._device)

    def _captions(self, micro: Micro) -> Tokens | TextStates:
        dropped = (micro.random.uniform() < self._train.caption_drop).tolist()
        picked = micro.random.choice([len(captions) for captions in micro.captions])
        if self._frozen is not None:
            states = self._frozen.states(micro.samples, picked=picked, dropped=dropped)
            return record_on_device(states, device=self._device)
        assert self._text is not None
        captions = [
            EMPTY_CAPTION if drop else wordings[index]
            for wordings, index, drop in zip(micro.captions, picked, dropped, strict=True)
        ]
        return record_on_device(self._text.tokenize(captions), device=self._device)

    def _given_frames(self, x_BCTHW: Tensor, micro: Micro) -> Condition | None:
        if not self._train.dit.condition_frames:
            return None
        frames = x_BCTHW.shape[2]
        is_given = micro.random.uniform() < self._train.condition_share
        # A clip that is given frames gets between one and all but one of its latent frames.
        counts = micro.random.choice([max(frames - 1, 1)] * len(micro.samples))
        lengths = torch.tensor(counts) + 1
        lengths = torch.where(is_given & (lengths < frames), lengths, 0)
        mask_BT = torch.arange(frames)[None, :] < lengths[:, None]
        mask_B1THW = self._moved(mask_BT)[:, None, :, None, None].to(x_BCTHW)
        mask_B1THW = mask_B1THW.expand(-1, 1, -1, *x_BCTHW.shape[3:])
        return Condition(latents_BCTHW=x_BCTHW * mask_B1THW, mask_B1THW=mask_B1THW)

    def lr_scale(self, network: str, name: str) -> float:
        """All weights learn alike."""
        del network, name
        return 1.0

    def start_from(self, weights: Mapping[str, Tensor], *, stage: str) -> None:
        """Loads a network of the same shape."""
        load_into(self._denoiser, weights, stage=stage)

    def config(self) -> dict[str, Any]:
        """Everything that sampling needs to know beside the weights."""
        return {
            "model": self._train.model.model_dump(mode="json"),
            "objective": self._train.objective.model_dump(mode="json"),
            "text": self._recipe.text.model_dump(mode="json"),
            "text_width": self._denoiser.dit.text_width,
            "clip": self._train.clip.model_dump(mode="json"),
        }


def _width(frozen: TextTable | None) -> int:
    assert frozen is not None
    return frozen.width


def _typical_tokens(recipe: Recipe, text: TextEncoder | None, frozen: TextTable | None) -> int:
    if frozen is not None:
        return frozen.max_tokens
    assert text is not None
    assert isinstance(recipe.text, Byt5Config)
    tokens = text.tokenize(["a red three moving left"]).ids_BL.shape[1]
    return int(tokens) // recipe.text.stride


def _grid(bucket: Bucket, autoencoder: AutoencoderConfig) -> tuple[int, int, int]:
    frames, height, width = bucket
    space = autoencoder.space_factor
    return (frames - 1) // autoencoder.time_factor + 1, height // space, width // space
