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
from models.diffusion.weights import clip_mean, min_snr_weight

Target = Literal["flow", "epsilon", "x0", "v"]


@dataclass(frozen=True)
class Prediction:
    """What a network's output says about its input, both [B, C, T, H, W].

    The two always satisfy x_t = alpha * clean + sigma * noise.
    """

    clean: Tensor
    noise: Tensor


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

        Args:
            prediction_BCTHW: the network's output at x_t, [B, C, T, H, W].
            x_BCTHW: clean clips.
            noise_BCTHW: the noise that corrupted them.
            t_B: their times in [0, 1], [B].
            weight: share of each position in its clip's mean, of a shape that broadcasts to
                the clips (one minus the mask of given frames), or None for equal shares. A
                clip whose weights are all 0 has loss 0.

        Raises:
            ValueError: if the prediction's shape is not the clips'.
        """
        if prediction_BCTHW.shape != x_BCTHW.shape:
            raise ValueError(
                f"prediction has shape {tuple(prediction_BCTHW.shape)}, "
                f"wanted {tuple(x_BCTHW.shape)}"
            )
        target = self.target(x_BCTHW.float(), noise_BCTHW.float(), t_B)
        loss_B = clip_mean((prediction_BCTHW.float() - target).square(), weight=weight)
        if isinstance(self._config, DiffusionConfig) and self._config.min_snr_gamma:
            shares, gamma = self.coefficients(t_B), self._config.min_snr_gamma
            loss_B = loss_B * min_snr_weight(shares, kind=self._config.kind, gamma=gamma)
        return loss_B

    def predict(self, prediction_BCTHW: Tensor, x_t_BCTHW: Tensor, t_B: Tensor) -> Prediction:
        """Exact clean clip and noise that a network output stands for.

        Computed in float32, or in float64 if an input is. The conversion needs alpha > 0 for
        epsilon and sigma > 0 for x0: where the divisor is 0 (x0 at t = 0 under the linear and
        zero-SNR schedules) the input does not determine the missing part and it is not finite.
        """
        output, x_t = _at_least_float32(prediction_BCTHW), _at_least_float32(x_t_BCTHW)
        alpha, sigma = self._shares(t_B, like=x_t)
        match self.kind:
            case "flow":
                return Prediction(clean=x_t - sigma * output, noise=x_t + alpha * output)
            case "epsilon":
                return Prediction(clean=(x_t - sigma * output) / alpha, noise=output)
            case "x0":
                return Prediction(clean=output, noise=(x_t - alpha * output) / sigma)
            case "v":
                clean = alpha * x_t - sigma * output
                return Prediction(clean=clean, noise=sigma * x_t + alpha * output)
            case unknown:
                assert_never(unknown)

    def express(self, clean_BCTHW: Tensor, x_t_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        """The output that stands for this clean clip at x_t: the inverse of ``predict``.

        Needs sigma > 0, so t > 0 for every schedule but the cosine one.
        """
        clean, x_t = _at_least_float32(clean_BCTHW), _at_least_float32(x_t_BCTHW)
        alpha, sigma = self._shares(t_B, like=x_t)
        return self.target(clean, (x_t - alpha * clean) / sigma, t_B)

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
