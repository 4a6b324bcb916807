"""What a recipe says about a space-time U-Net."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from models.config import RGB, Strict

Levels = tuple[NonNegativeInt, ...]
TEMPORAL_KERNEL = 3
MAX_DISTANCE = 32


class UNetConfig(Strict):
    """A U-Net over the pixels of a clip that works on space and on time in turn.

    Levels count from the finest, 0. In the layout ``adm`` level 0 has the input's resolution and
    every further level half of the one before; in ``efficient`` every level halves it, so that
    level 0 has half the input's. An attention level of ``adm`` has attention after every residual
    block, one of ``efficient`` once on the way down and once on the way up.
    """

    kind: Literal["video_unet"] = "video_unet"
    layout: Literal["adm", "efficient"] = "adm"
    width: PositiveInt  # channels of the first convolution
    mults: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]  # level i: width * mults[i]
    blocks: PositiveInt | tuple[PositiveInt, ...]  # residual blocks, of every or of each level
    groups: PositiveInt = 32  # of the group norms
    head_width: PositiveInt = 64  # channels of one attention head
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    skip_scale: bool = False  # skip connections times 1/sqrt(2)
    attention: Levels = ()  # levels with attention over the positions of a frame
    context_attention: Levels = ()  # levels that attend to text and image embedding
    temporal_attention: Levels = ()  # levels with attention over the frames of a clip
    time_position: Literal["relative", "rotary"] = "relative"  # how that knows a frame's place
    # Frames; the learned bias of a longer distance is that of this one. No more than clips of the
    # training have, if longer ones are sampled: a distance that was never seen learns nothing.
    max_distance: PositiveInt = MAX_DISTANCE
    temporal_conv: bool = False  # a convolution over time after every 3x3 one over space
    temporal_kernel: PositiveInt = TEMPORAL_KERNEL  # frames that it spans; odd
    text: bool = False  # reads the states of a text encoder
    image_embedding: PositiveInt | None = None  # width of the embedding of an image that it reads
    fps: bool = False  # reads frames per second
    low_resolution: bool = False  # reads the clip at a lower resolution, upsampled
    augmentation: bool = False  # reads the noise level of that clip
    given_frames: bool = False  # reads known frames and where they are
    learned_variance: bool = False  # three more output channels
    # How far pixels lie from what is expected (root mean square): from the smaller clip, from known
    # frames that fade into each other or, without either, from expected_mean. The output is then
    # in units of what that leaves open (models/diffusion/preconditioning.py); null: it is the
    # objective's target.
    expected_std: PositiveFloat | None = None
    expected_mean: float = 0.0

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.width * mult for mult in self.mults)

    @property
    def depths(self) -> tuple[int, ...]:
        """Residual blocks of each level on the way down."""
        if isinstance(self.blocks, tuple):
            return self.blocks
        return (self.blocks,) * len(self.mults)

    @property
    def stride(self) -> int:
        """Height and width must be multiples of it."""
        halvings = len(self.mults) - (self.layout == "adm")
        return 2**halvings

    @property
    def embed_width(self) -> int:
        """Width of the conditioning vector and of the tokens that are attended to."""
        return 4 * self.width

    @property
    def out_channels(self) -> int:
        """3, or 6 with a learned variance."""
        return 2 * RGB if self.learned_variance else RGB

    @property
    def kernel_over_time(self) -> int | None:
        """Frames that convolutions over time span; None if there are none."""
        return self.temporal_kernel if self.temporal_conv else None

    @model_validator(mode="after")
    def _levels_exist(self) -> Self:
        levels = len(self.mults)
        if len(self.depths) != levels:
            raise ValueError(
                f"blocks={list(self.depths)}, wanted one number or {levels}, one per entry of mults"
            )
        for name in ("attention", "context_attention", "temporal_attention"):
            given: Levels = getattr(self, name)
            if len(set(given)) != len(given) or any(level >= levels for level in given):
                raise ValueError(
                    f"{name}={list(given)}, wanted levels from 0 to {levels - 1}, each once"
                )
        return self

    @model_validator(mode="after")
    def _channels_divide(self) -> Self:
        for width in (self.width, *self.widths):
            if width % self.groups:
                raise ValueError(f"groups={self.groups}, wanted a divisor of {width} channels")
        levels = {*self.attention, *self.context_attention, *self.temporal_attention}
        headed = [self.widths[level] for level in sorted(levels)]
        if self.text:
            headed.append(self.embed_width)
        for width in headed:
            if width % self.head_width:
                raise ValueError(
                    f"head_width={self.head_width}, wanted a divisor of {width} channels"
                )
        if self.time_position == "rotary" and self.head_width % 2:
            raise ValueError(
                f"head_width={self.head_width} with time_position=rotary, wanted an even number"
            )
        return self

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Self:
        if self.text and not self.context_attention:
            raise ValueError("text=true with context_attention=[], wanted at least one level")
        if self.context_attention and not self.text and self.image_embedding is None:
            raise ValueError(
                f"context_attention={list(self.context_attention)}, wanted text=true or an "
                "image_embedding to attend to"
            )
        reads_clip = self.low_resolution or self.given_frames
        if self.expected_mean and (self.expected_std is None or reads_clip):
            raise ValueError(
                f"expected_mean={self.expected_mean} wants an expected_std, and neither "
                "low_resolution nor given_frames"
            )
        if self.augmentation and not self.low_resolution:
            raise ValueError("augmentation=true belongs to low_resolution=true")
        if self.time_position == "rotary" and not self.temporal_attention:
            raise ValueError(
                "time_position=rotary with temporal_attention=[], wanted at least one level"
            )
        return self

    @model_validator(mode="after")
    def _constants_of_time_have_an_effect(self) -> Self:
        if self.temporal_kernel % 2 == 0:
            raise ValueError(f"temporal_kernel={self.temporal_kernel}, wanted an odd number")
        if not self.temporal_conv and self.temporal_kernel != TEMPORAL_KERNEL:
            raise ValueError(
                f"temporal_kernel={self.temporal_kernel} belongs to temporal_conv=true"
            )
        is_relative = self.time_position == "relative" and self.temporal_attention
        if not is_relative and self.max_distance != MAX_DISTANCE:
            raise ValueError(
                f"max_distance={self.max_distance} belongs to time_position=relative with "
                "temporal_attention"
            )
        return self
