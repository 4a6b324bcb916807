"""What a recipe says about the noising process, the training target and the sampler.

Time runs from 0 (clean) to 1 (noise) in every family.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from models.config import Strict

PERCENTILE = 0.995
VLB_WEIGHT = 0.001


class FlowConfig(Strict):
    """Rectified flow: straight lines from data to noise, the network predicts their velocity.

    Source: Liu et al. 2022, arXiv:2209.03003; time sampling and shift as in Esser et al. 2024,
    arXiv:2403.03206, sections 3.1 and 5.3.2.
    """

    kind: Literal["flow"] = "flow"
    time_sampling: Literal["logit_normal", "uniform"] = "logit_normal"
    mean: float = 0.0  # of the logit of t, for logit_normal
    std: PositiveFloat = 1.0  # of the logit of t, for logit_normal
    shift: PositiveFloat = 1.0  # t <- shift t / (1 + (shift - 1) t); above 1 favours noisy times

    def output_channels(self, channels: int) -> int:
        """Channels that a network for clips of so many channels puts out."""
        return channels

    @model_validator(mode="after")
    def _uniform_has_no_moments(self) -> Self:
        if self.time_sampling == "uniform" and (self.mean, self.std) != (0.0, 1.0):
            raise ValueError(
                f"mean={self.mean} and std={self.std} belong to time_sampling=logit_normal, "
                "found time_sampling=uniform"
            )
        return self


class DiffusionConfig(Strict):
    """Variance-preserving diffusion with one of three predictions and one of three schedules.

    ``learned_variance`` makes the network put out two channels per channel of the clip: the
    prediction, and where the log variance of an ancestral step lies between its bounds. It is
    trained by ``vlb_weight`` times the variational bound (see ``variance.py``), which
    ``min_snr_gamma`` leaves as it is: where that makes the rest small, this has to be too.

    Source: learned variance, Nichol and Dhariwal 2021, arXiv:2102.09672, equations 15 and 16.
    """

    kind: Literal["epsilon", "x0", "v"]
    schedule: Literal["cosine", "linear", "zero_snr"] = "cosine"
    min_snr_gamma: PositiveFloat | None = None  # Hang et al. 2023, arXiv:2303.09556; off if null
    learned_variance: bool = False
    vlb_weight: PositiveFloat = VLB_WEIGHT  # lambda of equation 16, for learned_variance

    def output_channels(self, channels: int) -> int:
        """Channels that a network for clips of so many channels puts out."""
        return 2 * channels if self.learned_variance else channels

    @model_validator(mode="after")
    def _prediction_is_invertible(self) -> Self:
        if self.kind == "epsilon" and self.schedule == "zero_snr":
            raise ValueError(
                "kind=epsilon with schedule=zero_snr: at t=1 the input is the noise itself and "
                "says nothing about the clip; wanted kind v or x0"
            )
        return self

    @model_validator(mode="after")
    def _variance_is_learned_as_published(self) -> Self:
        if self.learned_variance and self.kind == "v":
            raise ValueError("learned_variance=true with kind=v, wanted kind epsilon or x0")
        if not self.learned_variance and self.vlb_weight != VLB_WEIGHT:
            raise ValueError(
                f"vlb_weight={self.vlb_weight} belongs to learned_variance=true, "
                "found learned_variance=false"
            )
        return self


ObjectiveConfig = Annotated[FlowConfig | DiffusionConfig, Field(discriminator="kind")]


class OscillationConfig(Strict):
    """The guidance scale alternates with a lower one, after some steps at its full height.

    Source: Ho et al. 2022 (Imagen Video), arXiv:2210.02303, section 2.6.2, for the base model
    and the first temporal and spatial super-resolution: weights w of 15 and 1, which are scales
    of 16 and 2 here (``GuidanceConfig``: scale = w + 1). The length of the constant part is not
    published, nor which scale follows it (here the high one).
    """

    low: NonNegativeFloat = 2.0  # as GuidanceConfig.scale: 1 computes no unconditional output
    constant_share: float = Field(default=0.1, ge=0.0, le=1.0)  # part of the steps, from noise


class GuidanceConfig(Strict):
    """Classifier-free guidance.

    ``scale`` is Imagen's: output = unconditional + scale * (conditional - unconditional), so 1
    is off. Imagen Video's weight w is scale - 1.
    """

    scale: NonNegativeFloat = 1.0
    interval: tuple[float, float] = (0.0, 1.0)  # guide at times in here, both ends included
    rescale: float = Field(default=0.0, ge=0.0, le=1.0)  # phi of arXiv:2305.08891; 0 is off
    oscillation: OscillationConfig | None = None

    def scale_at(self, step: int, *, steps: int) -> float:
        """The scale in one of ``steps`` sampling steps; step 0 starts at pure noise."""
        if self.oscillation is None:
            return self.scale
        constant = round(self.oscillation.constant_share * steps)
        is_low = step > constant and (step - constant) % 2 == 1
        return self.oscillation.low if is_low else self.scale

    @model_validator(mode="after")
    def _interval_is_ordered(self) -> Self:
        low, high = self.interval
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"interval={self.interval}, wanted 0 <= low < high <= 1")
        return self

    @model_validator(mode="after")
    def _oscillation_is_below_the_scale(self) -> Self:
        swing = self.oscillation
        if swing is not None and (self.scale <= 1.0 or swing.low > self.scale):
            raise ValueError(
                f"oscillation.low={swing.low} with scale={self.scale}, wanted scale above 1 and "
                "low at most scale"
            )
        return self


class SamplerConfig(Strict):
    """How noise becomes a clip.

    ``threshold`` keeps the predicted clean clip in [-1, 1] in every step, for models of pixels:
    static clips it there, dynamic clips it at the ``percentile`` of its absolute values and
    divides by that, where it is above 1. Latents have no such range: leave it off for them.

    Source: thresholding, Saharia et al. 2022 (Imagen), arXiv:2205.11487, section 2.3, which
    does not publish the percentile.
    """

    kind: Literal["euler", "heun", "ddim", "ddim_back", "ddpm", "dpmpp_2m"] = "euler"
    steps: PositiveInt = 50
    shift: PositiveFloat | None = None  # of the time grid; null takes the objective's own
    eta: float = Field(default=0.0, ge=0.0, le=1.0)  # ddim: 0 adds no noise, 1 is ancestral
    variance: float = Field(default=0.0, ge=0.0, le=1.0)  # ddpm: 0 lower bound, 1 upper bound
    guidance: GuidanceConfig = GuidanceConfig()
    threshold: Literal["static", "dynamic"] | None = None
    percentile: float = Field(default=PERCENTILE, gt=0.0, le=1.0)  # for threshold=dynamic

    @property
    def is_stochastic(self) -> bool:
        """Whether sampling draws noise after the first step."""
        return self.kind in ("ddpm", "ddim_back") or self.eta > 0.0

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Self:
        if self.kind != "ddim" and self.eta:
            raise ValueError(f"eta={self.eta} belongs to kind=ddim, found kind={self.kind}")
        if self.kind != "ddpm" and self.variance:
            raise ValueError(
                f"variance={self.variance} belongs to kind=ddpm, found kind={self.kind}"
            )
        if self.threshold != "dynamic" and self.percentile != PERCENTILE:
            raise ValueError(
                f"percentile={self.percentile} belongs to threshold=dynamic, "
                f"found threshold={self.threshold}"
            )
        return self
