"""LPIPS-style distance between frames, with weights from a file.

Shape letters: N frames, C channels, H W height and width.
"""

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models.nn.causal_conv import fold_frames
from models.sora.autoencoder_config import PerceptualConfig

# Convolutions of VGG-16's five stages, by torchvision's numbering of `features`.
VGG_STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


class PerceptualDistance(nn.Module):
    """Squared distance of unit-length VGG features, weighted per channel, averaged over frames.

    The file holds ``features.N.weight`` and ``features.N.bias`` of VGG-16 (any widths) and, for
    every stage S that is compared, ``lin.S.weight`` [C] (LPIPS' linear layers). Stages without
    weights at the end are left out.

    Args:
        config: names the file.
        field: the recipe's name for the file, for errors.

    Source: Zhang et al. 2018, arXiv:1801.03924, equation 1.

    Raises:
        ValueError: if the file cannot be read, or its weights are missing or do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, config: PerceptualConfig, *, field: str = "objective.perceptual.path"
    ) -> None:
        super().__init__()
        self._file = f"{field}={config.path}"
        try:
            tensors = load_file(config.path)
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"{self._file} cannot be read: {error}") from None
        self._stages: list[list[tuple[str, str]]] = []
        width = 3
        for stage, convolutions in enumerate(VGG_STAGES):
            if f"lin.{stage}.weight" not in tensors:
                break
            for number in convolutions:
                width = self._keep_convolution(tensors, f"features.{number}", width=width)
            self._keep_shares(tensors, f"lin.{stage}.weight", width=width)
            self._stages.append(
                [(f"features_{one}_weight", f"features_{one}_bias") for one in convolutions]
            )
        if not self._stages:
            raise ValueError(
                f"{self._file} holds no lin.0.weight, wanted VGG-16 features and LPIPS weights"
            )
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def _keep_convolution(self, tensors: dict[str, Tensor], name: str, *, width: int) -> int:
        """Returns the convolution's output channels."""
        weight = self._find(tensors, f"{name}.weight")
        if weight.ndim != 4 or weight.shape[1:] != (width, 3, 3):
            raise self._misfit(weight, f"{name}.weight", wanted=f"[out, {width}, 3, 3]")
        bias = self._find(tensors, f"{name}.bias")
        if bias.shape != weight.shape[:1]:
            raise self._misfit(bias, f"{name}.bias", wanted=f"[{weight.shape[0]}]")
        self._keep(weight, f"{name}.weight")
        self._keep(bias, f"{name}.bias")
        return weight.shape[0]

    def _keep_shares(self, tensors: dict[str, Tensor], name: str, *, width: int) -> None:
        shares = self._find(tensors, name)
        if shares.numel() != width:
            raise self._misfit(shares, name, wanted=f"{width} values")
        self._keep(shares, name)

    def _find(self, tensors: dict[str, Tensor], name: str) -> Tensor:
        if name not in tensors:
            raise ValueError(f"{self._file} holds no {name}")
        return tensors[name]

    def _keep(self, tensor: Tensor, name: str) -> None:
        self.register_buffer(name.replace(".", "_"), tensor.float(), persistent=False)

    def _misfit(self, tensor: Tensor, name: str, *, wanted: str) -> ValueError:
        return ValueError(
            f"{self._file} holds {name} of shape {list(tensor.shape)}, wanted {wanted}"
        )

    def forward(self, a_B3THW: Tensor, b_B3THW: Tensor) -> Tensor:
        """Scalar distance of two batches of clips in [-1, 1]; 0 for equal ones."""
        a_NCHW, b_NCHW = self._prepare(a_B3THW), self._prepare(b_B3THW)
        total = a_NCHW.new_zeros(())
        for stage, names in enumerate(self._stages):
            if stage:
                a_NCHW, b_NCHW = F.max_pool2d(a_NCHW, 2), F.max_pool2d(b_NCHW, 2)
            for weight, bias in names:
                a_NCHW = self._convolve(a_NCHW, weight, bias)
                b_NCHW = self._convolve(b_NCHW, weight, bias)
            share_C = self.get_buffer(f"lin_{stage}_weight").view(1, -1, 1, 1)
            difference = F.normalize(a_NCHW, dim=1) - F.normalize(b_NCHW, dim=1)
            total = total + (share_C * difference.square()).sum(dim=1).mean()
        return total

    def _prepare(self, x_B3THW: Tensor) -> Tensor:
        return ((fold_frames(x_B3THW) + 1.0) / 2.0 - self.mean) / self.std

    def _convolve(self, x_NCHW: Tensor, weight: str, bias: str) -> Tensor:
        return F.relu(F.conv2d(x_NCHW, self.get_buffer(weight), self.get_buffer(bias), padding=1))
