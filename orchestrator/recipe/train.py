"""How one network is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from models.config import Strict
from models.diffusion.config import DiffusionConfig, FlowConfig, SamplerConfig
from models.sora.autoencoder_config import AutoencoderConfig, AutoencoderLossConfig
from models.sora.dit_config import DiTConfig
from orchestrator.recipe.fields import Share, Size

Model = Annotated[AutoencoderConfig | DiTConfig, Field(discriminator="kind")]
Objective = Annotated[
    AutoencoderLossConfig | FlowConfig | DiffusionConfig, Field(discriminator="kind")
]


class Clip(Strict):
    """Geometry of a clip: what is sampled, and the largest that is trained on."""

    frames: PositiveInt
    size: Size
    fps: PositiveFloat = 8.0


class Optim(Strict):
    """AdamW and its learning-rate schedule."""

    lr: PositiveFloat
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.0
    grad_clip: PositiveFloat | None = 1.0
    warmup_steps: NonNegativeInt = 0
    schedule: Literal["constant", "cosine"] = "constant"
    final_lr_ratio: Share = 0.0  # where cosine ends, as a part of lr


class Preview(Strict):
    """Clips sampled while training goes on."""

    prompts: tuple[str, ...]
    every_steps: PositiveInt


class Train(Strict):
    """One network, its objective, its clips and its schedule."""

    model: Model
    objective: Objective
    clip: Clip
    steps: PositiveInt
    batch: PositiveInt  # clips per optimizer step, over all ranks
    micro_batch: PositiveInt  # clips per rank per forward
    optim: Optim
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpointing: bool = False  # recompute each block's activations in the backward pass
    compile: bool = False  # torch.compile, block by block
    image_share: Share = 0.0  # part of the steps that see only the first frame of each clip
    caption_drop: Share = 0.0  # part of the clips trained with the empty caption
    condition_share: Share = 0.0  # part of the clips that are given their first frames
    log_every: PositiveInt = 10
    sampler: SamplerConfig = SamplerConfig()  # of previews and of the finished run
    preview: Preview | None = None

    @property
    def autoencoder(self) -> AutoencoderConfig:
        """The network of a stage that trains an autoencoder; only for one."""
        assert isinstance(self.model, AutoencoderConfig)
        return self.model

    @property
    def dit(self) -> DiTConfig:
        """The network of a stage that trains a diffusion transformer; only for one."""
        assert isinstance(self.model, DiTConfig)
        return self.model

    @property
    def diffusion(self) -> FlowConfig | DiffusionConfig:
        """The objective of a stage that trains a diffusion transformer; only for one."""
        assert not isinstance(self.objective, AutoencoderLossConfig)
        return self.objective

    @model_validator(mode="after")
    def _objective_fits_model(self) -> Self:
        autoencoder = isinstance(self.model, AutoencoderConfig)
        if autoencoder != isinstance(self.objective, AutoencoderLossConfig):
            wanted = "autoencoder" if autoencoder else "flow, epsilon, x0 or v"
            raise ValueError(
                f"objective.kind={self.objective.kind} does not fit "
                f"model.kind={self.model.kind}, wanted {wanted}"
            )
        if autoencoder:
            self._refuse_text_fields()
        else:
            self._refuse_pixel_fields()
        return self

    def _refuse_text_fields(self) -> None:
        for field in ("caption_drop", "condition_share", "preview"):
            if getattr(self, field):
                raise ValueError(
                    f"{field}={getattr(self, field)} has no meaning for an autoencoder"
                )

    def _refuse_pixel_fields(self) -> None:
        if isinstance(self.objective, DiffusionConfig) and self.objective.learned_variance:
            raise ValueError(
                f"objective.learned_variance=true does not fit model.kind={self.model.kind}, "
                "wanted false: it predicts no variance"
            )
        if self.sampler.threshold is not None:
            raise ValueError(
                f"sampler.threshold={self.sampler.threshold} does not fit "
                f"model.kind={self.model.kind}, wanted null: latents have no range to keep"
            )

    @model_validator(mode="after")
    def _conditioning_has_a_channel(self) -> Self:
        given = isinstance(self.model, DiTConfig) and self.model.condition_frames
        if self.condition_share and not given:
            raise ValueError(
                f"condition_share={self.condition_share} needs model.condition_frames=true, "
                "seen false"
            )
        return self

    @model_validator(mode="after")
    def _clip_fits_autoencoder(self) -> Self:
        if isinstance(self.model, AutoencoderConfig):
            check_geometry(self.clip, autoencoder=self.model)
        return self


def check_geometry(clip: Clip, *, autoencoder: AutoencoderConfig) -> None:
    """Raises ValueError unless the clip divides into whole latents."""
    time, space = autoencoder.time_factor, autoencoder.space_factor
    if (clip.frames - 1) % time:
        raise ValueError(f"clip.frames={clip.frames} does not fit {time}k+1 (1, {time + 1}, ...)")
    for side in clip.size:
        if side % space:
            raise ValueError(f"clip.size={list(clip.size)} has {side}, wanted multiples of {space}")


class Compute(Strict):
    """Processes and devices of one stage."""

    workers: NonNegativeInt = 1  # 0: one plain process with the plain engine, no Ray
    gpus_per_worker: Literal[0, 1] = 0
    cpus_per_worker: PositiveInt = 1
    zero: Literal[0, 1, 2, 3] = 1
    min_workers: PositiveInt | None = None  # the gang may shrink to this; default: workers

    @model_validator(mode="after")
    def _minimum_is_below(self) -> Self:
        if self.min_workers is not None and self.min_workers > max(self.workers, 1):
            raise ValueError(
                f"min_workers={self.min_workers} is above workers={self.workers}, "
                "wanted at most that"
            )
        return self

    @property
    def ranks(self) -> int:
        """Processes of the full gang."""
        return max(self.workers, 1)

    @property
    def legal_ranks(self) -> range:
        """Gang sizes that training may go on with."""
        return range(self.min_workers or self.ranks, self.ranks + 1)


class Save(Strict):
    """When checkpoints are taken and how many are kept."""

    every_steps: PositiveInt = 200
    keep: PositiveInt = 3
