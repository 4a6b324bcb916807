"""The 3D patch discriminator of the autoencoder's adversarial term.

Shape letters: B clips, T H W frames, height and width.
"""

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.causal_conv import CausalConv3d
from models.sora.autoencoder_blocks import ChannelNorm
from models.sora.autoencoder_config import AdversarialConfig

SLOPE = 0.2


class PatchDiscriminator3D(nn.Module):
    """Scores overlapping space-time patches of a clip, real above, made below zero.

    Source: PatchGAN, Isola et al. 2016, arXiv:1611.07004, appendix 6.1.2, with 3D convolutions
    as the replications have it (Open-Sora 2.0, arXiv:2503.09642, section 4.4). RMS norm instead
    of batch norm: a score must not depend on the other clips of the batch.
    """

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        widths = [config.width * min(2**layer, 8) for layer in range(config.layers + 1)]
        self.stem = CausalConv3d(3, widths[0], kernel=(3, 4, 4), stride=(1, 2, 2))
        self.layers = nn.ModuleList(
            CausalConv3d(
                source,
                width,
                kernel=(3, 4, 4) if layer + 2 < len(widths) else (3, 3, 3),
                stride=(2, 2, 2) if layer + 2 < len(widths) else (1, 1, 1),
            )
            for layer, (source, width) in enumerate(itertools.pairwise(widths))
        )
        self.norms = nn.ModuleList(ChannelNorm(width) for width in widths[1:])
        self.head = CausalConv3d(widths[-1], 1)

    def forward(self, x_B3THW: Tensor) -> Tensor:
        """Scores [B, 1, t, h, w], float32, of clips in [-1, 1]."""
        h = F.leaky_relu(self.stem(x_B3THW.to(self.stem.weight.dtype)), SLOPE)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            h = F.leaky_relu(norm(layer(h)), SLOPE)
        return self.head(h).float()
