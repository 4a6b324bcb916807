"""Training targets and their exact conversion to a clean clip and its noise.

Shape letters: B clips, C channels, T frames, H W height and width. Nothing here depends on the
number of dimensions after B.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import torch
from torch import Tensor

from models.diffusion.config import DiffusionConfig, FlowConfig
from models.diffusion.schedules import Coefficients, Schedule, cosine, linear, straight, zero_snr
from models.diffusion.shapes import per_clip
from models.diffusion.times import logit_normal, shift_time
from models.diffusion.variance import vlb_bits
from models.diffusion.weights import clip_mean, min_snr_weight

Target = Literal["flow", "epsilon", "x0", "v"]


@dataclass(frozen=True)
class Prediction:
    """What a network's output says about its input, each [B, C, T, H, W].

    Clean and noise always satisfy x_t = alpha * clean + sigma * noise.
    """

    clean: Tensor
    noise: Tensor
    # Of an ancestral step: 0 where its log variance is at the lower bound, 1 at the upper one,
    # unbounded; None unless the network learns it.
    variance_share: Tensor | None = None


class Objective:
    """One noising process and the target that the network learns under it."""

    def __init__(self, config: FlowConfig | DiffusionConfig) -> None:
        self._config = config
        self._schedule: Schedule = _schedule(config)

    @property
    def kind(self) -> Target:
        """What the network predicts."""
        return self._config.kind

    @property
    def shift(self) -> float:
        """Shift of the training times, which sampling takes over unless told otherwise."""
        return self._config.shift if isinstance(self._config, FlowConfig) else 1.0

    @property
    def learns_variance(self) -> bool:
        """Whether the second half of the network's channels stands for a variance."""
        return isinstance(self._config, DiffusionConfig) and self._config.learned_variance

    def coefficients(self, t_B: Tensor) -> Coefficients:
        """Signal and noise shares at times [B], float64."""
        return self._schedule(t_B)

    def sample_time(self, uniform_B: Tensor) -> Tensor:
        """Training times in [0, 1], [B], from uniform draws in [0, 1), [B]."""
        match self._config:
            case FlowConfig(time_sampling="logit_normal", mean=mean, std=std, shift=shift):
                return shift_time(logit_normal(uniform_B, mean=mean, std=std), shift=shift)
            case FlowConfig(shift=shift):
                return shift_time(uniform_B, shift=shift)
            case DiffusionConfig():
                return uniform_B

    def corrupt(self, x_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        """Returns x_t = alpha(t) x + sigma(t) noise, [B, C, T, H, W].

        Raises:
            ValueError: if ``t_B`` is not one time per clip.
        """
        alpha, sigma = self._shares(t_B, like=x_BCTHW)
        return alpha * x_BCTHW + sigma * noise_BCTHW

    def target(self, x_BCTHW: Tensor, noise_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        """What the network should output at x_t, [B, C, T, H, W].

        Source: v of Salimans and Ho 2022, arXiv:2202.00512, section 4: alpha noise - sigma x.
        """
        match self.kind:
            case "flow":
                return noise_BCTHW - x_BCTHW
            case "epsilon":
                return noise_BCTHW
            case "x0":
                return x_BCTHW
            case "v":
                alpha, sigma = self._shares(t_B, like=x_BCTHW)
                return alpha * noise_BCTHW - sigma * x_BCTHW
            case unknown:
                assert_never(unknown)

    def loss(
        self,
        prediction_BCTHW: Tensor,
        x_BCTHW: Tensor,
        noise_BCTHW: Tensor,
        t_B: Tensor,
        *,
        weight: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error to the target per clip, [B], float32 whatever the inputs are.

        Where the variance is learned, plus its weight times the variational bound in bits per
        value, whose gradient reaches the variance channels only; min-SNR leaves that term as it
        is.

        Args:
            prediction_BCTHW: the network's output at x_t, [B, C, T, H, W], or
                [B, 2C, T, H, W] with the variance in the second half.
            x_BCTHW: clean clips, [B, C, T, H, W].
            noise_BCTHW: the noise that corrupted them.
            t_B: their times in [0, 1], [B].
            weight: share of each position in its clip's mean, of a shape that broadcasts to
                the clips (one minus the mask of given frames), or None for equal shares. A
                clip whose weights are all 0 has loss 0.

        Raises:
            ValueError: if the prediction's shape does not fit the clips'.
        """
        output, share = self._split(prediction_BCTHW.float(), like=x_BCTHW)
        error = output - self.target(x_BCTHW.float(), noise_BCTHW.float(), t_B)
        loss_B = clip_mean(error.square(), weight=weight)
        if isinstance(self._config, DiffusionConfig) and self._config.min_snr_gamma:
            shares, gamma = self.coefficients(t_B), self._config.min_snr_gamma
            loss_B = loss_B * min_snr_weight(shares, kind=self._config.kind, gamma=gamma)
        if share is None:
            return loss_B
        return loss_B + self._variance_loss(share, error, x_BCTHW, t_B, weight=weight)

    def predict(self, prediction_BCTHW: Tensor, x_t_BCTHW: Tensor, t_B: Tensor) -> Prediction:
        """Exact clean clip and noise that a network output stands for, and a learned variance.

        Computed in float32, or in float64 if an input is. The conversion needs alpha > 0 for
        epsilon and sigma > 0 for x0: where the divisor is 0 (x0 at t = 0 under the linear and
        zero-SNR schedules) the input does not determine the missing part and it is not finite.

        Raises:
            ValueError: if the output's shape does not fit the input's.
        """
        x_t = _at_least_float32(x_t_BCTHW)
        output, share = self._split(_at_least_float32(prediction_BCTHW), like=x_t)
        alpha, sigma = self._shares(t_B, like=x_t)
        match self.kind:
            case "flow":
                return Prediction(clean=x_t - sigma * output, noise=x_t + alpha * output)
            case "epsilon":
                clean = (x_t - sigma * output) / alpha
                return Prediction(clean=clean, noise=output, variance_share=share)
            case "x0":
                noise = (x_t - alpha * output) / sigma
                return Prediction(clean=output, noise=noise, variance_share=share)
            case "v":
                clean = alpha * x_t - sigma * output
                return Prediction(clean=clean, noise=sigma * x_t + alpha * output)
            case unknown:
                assert_never(unknown)

    def express(self, clean_BCTHW: Tensor, x_t_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        """The output that stands for this clean clip at x_t: the inverse of ``predict``.

        A learned variance is no part of it: [B, C, T, H, W] always. Needs sigma > 0, so t > 0
        for every schedule but the cosine one.
        """
        clean, x_t = _at_least_float32(clean_BCTHW), _at_least_float32(x_t_BCTHW)
        alpha, sigma = self._shares(t_B, like=x_t)
        return self.target(clean, (x_t - alpha * clean) / sigma, t_B)

    def _split(self, output: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor | None]:
        """The prediction and the share of the upper bound in the log variance.

        Channels from -1 to 1 stand for shares from 0 to 1: the v of arXiv:2102.09672,
        equation 15 is (channel + 1) / 2, as in the authors' code, so that an output of zeros
        is half way between the bounds.
        """
        clips, channels, *rest = like.shape
        wanted = (clips, self._config.output_channels(channels), *rest)
        if output.shape != wanted:
            raise ValueError(f"prediction has shape {tuple(output.shape)}, wanted {wanted}")
        if not self.learns_variance:
            return output, None
        prediction, variance = output.chunk(2, dim=1)
        return prediction, (variance + 1) / 2

    def _variance_loss(
        self, share: Tensor, error: Tensor, x_BCTHW: Tensor, t_B: Tensor, *, weight: Tensor | None
    ) -> Tensor:
        """The variational bound, weighted, from the error to the target, [B]."""
        assert isinstance(self._config, DiffusionConfig)
        clean_error = -error
        if self.kind == "epsilon":
            alpha, sigma = self._shares(t_B, like=error)
            clean_error = sigma / alpha * error
        bits = vlb_bits(share, x_BCTHW, clean_error, t_B, schedule=self._schedule)
        return self._config.vlb_weight * clip_mean(bits, weight=weight)

    def _shares(self, t_B: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor]:
        if t_B.shape != like.shape[:1]:
            raise ValueError(f"t_B has shape {tuple(t_B.shape)}, wanted ({like.shape[0]},)")
        shares = self.coefficients(t_B)
        return (
            per_clip(shares.alpha_B.to(like), like=like),
            per_clip(shares.sigma_B.to(like), like=like),
        )


def build_objective(config: FlowConfig | DiffusionConfig) -> Objective:
    """The objective that a recipe's ``objective`` names."""
    return Objective(config)


def _schedule(config: FlowConfig | DiffusionConfig) -> Schedule:
    match config:
        case FlowConfig():
            return straight
        case DiffusionConfig(schedule="cosine"):
            return cosine
        case DiffusionConfig(schedule="linear"):
            return linear()
        case DiffusionConfig():
            return zero_snr()


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
