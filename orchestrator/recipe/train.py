"""How one network is trained."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from models.config import MissingFrames, Strict
from models.diffusion.augmentation_config import AugmentationConfig
from models.diffusion.config import DiffusionConfig, FlowConfig, SamplerConfig
from models.make_a_video.fps_config import FpsConfig
from models.make_a_video.given_config import GivenConfig
from models.make_a_video.prior_config import PriorConfig
from models.nn.unet_config import UNetConfig
from models.sora.autoencoder_config import AutoencoderConfig, AutoencoderLossConfig
from models.sora.dit_config import DiTConfig
from models.text.pair_config import ContrastiveConfig, SmallPairConfig
from orchestrator.recipe.fields import EverySteps, Share, Size
from orchestrator.recipe.health import Health

Model = Annotated[
    AutoencoderConfig | DiTConfig | UNetConfig | PriorConfig | SmallPairConfig,
    Field(discriminator="kind"),
]
Objective = Annotated[
    AutoencoderLossConfig | ContrastiveConfig | FlowConfig | DiffusionConfig,
    Field(discriminator="kind"),
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
    spatial_lr_ratio: Share = 1.0  # lr of what a video network took over from images, 0: frozen


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
    # With tokens, batch and micro_batch are of clips as large as ``clip``: a step of smaller ones
    # takes so many times more of them as their tokens fit into one, in whole numbers.
    batch_by: Literal["clips", "tokens"] = "clips"
    optim: Optim
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpointing: bool = False  # recompute each block's activations in the backward pass
    compile: bool = False  # torch.compile, block by block
    image_share: Share = 0.0  # part of the steps that see only the first frame of each clip
    packed_images: Share = 0.0  # part of the clips whose frames are images of other clips
    caption_drop: Share = 0.0  # part of the clips trained with the empty caption
    embedding_drop: Share = 0.0  # part of the clips trained with no image embedding (zeros)
    condition_share: Share = 0.0  # part of the clips that are given their first frames
    augmentation: AugmentationConfig | None = None  # noise on the low-resolution clip
    # What a network that puts frames between reads in their place; null: as the papers have it,
    # blank for one that is given frames, else repeat.
    missing_frames: MissingFrames | None = None
    fps_range: FpsConfig | None = None  # frame rates drawn in training; null: the clip's own
    given: GivenConfig | None = None  # known frames of an interpolation network
    crop: Size | None = None  # trains on random crops of this size
    log_every: PositiveInt = 10
    sampler: SamplerConfig = SamplerConfig()  # of previews and of the finished run
    preview: Preview | None = None
    health: Health = Health()

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
    def unet(self) -> UNetConfig:
        """The network of a stage that trains a U-Net on pixels; only for one."""
        assert isinstance(self.model, UNetConfig)
        return self.model

    @property
    def missing(self) -> MissingFrames:
        """What a U-Net that puts frames between reads in their place."""
        return self.missing_frames or ("blank" if self.unet.given_frames else "repeat")

    @property
    def diffusion(self) -> FlowConfig | DiffusionConfig:
        """The objective of a stage that trains a denoiser; only for one."""
        assert isinstance(self.objective, FlowConfig | DiffusionConfig)
        return self.objective

    @property
    def reads_captions(self) -> bool:
        """Whether training looks at captions at all."""
        match self.model:
            case AutoencoderConfig():
                return False
            case UNetConfig(text=text):
                return text
            case DiTConfig() | PriorConfig() | SmallPairConfig():
                return True


class Compute(Strict):
    """Processes and devices of one stage."""

    workers: NonNegativeInt = 1  # 0: one plain process with the plain engine
    gpus_per_worker: Literal[0, 1] = 0
    cpus_per_worker: PositiveInt = 1
    zero: Literal[0, 1, 2, 3] = 1
    sequence_parallel: PositiveInt = 1  # ranks that share the tokens of each clip; of a video_dit
    min_workers: PositiveInt | None = None  # the gang may shrink to this; default: workers
    hang_after_s: PositiveFloat = 600.0  # in one step, then a gang on Ray is started again

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
    def least_ranks(self) -> int:
        """Processes of the smallest gang."""
        return self.min_workers or self.ranks

    @property
    def is_elastic(self) -> bool:
        """Whether the gang may shrink and grow."""
        return self.least_ranks < self.ranks


class KeepBest(Strict):
    """Checkpoints that are kept for a metric: its last logged value before each of them counts."""

    metric: str = "loss"  # as the stage logs it
    count: PositiveInt = 1
    largest: bool = False  # whether more is better


class Save(Strict):
    """When checkpoints are taken, and which are kept: each that any of these rules keeps."""

    every_steps: EverySteps = 200  # auto: by what saves cost, and failures
    keep: PositiveInt = 3  # the newest ones
    keep_every_steps: PositiveInt | None = None  # those at multiples of it
    keep_best: KeepBest | None = None
