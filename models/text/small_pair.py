"""A small pair of encoders that a stage of the recipe trains.

Shape letters: B captions or pictures, E width of an embedding, C channels, H W height and width
of a picture or of a stage's grid.
"""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.text.byt5 import Byt5Encoder
from models.text.pair_config import NORM_GROUPS, SmallPairConfig
from models.text.pair_states import ImageTextPair, PairText, unit
from models.text.states import Tokens

FIRST_TEMPERATURE = 0.07
LARGEST_SCALE = 100.0


class ConvBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, norms first.

    Source: He et al. 2016, arXiv:1603.05027, figure 1b; group norm (Wu & He 2018,
    arXiv:1803.08494), so that a picture's embedding does not depend on its batch mates.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv_in = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_out = nn.GroupNorm(NORM_GROUPS, channels)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns [B, C, H, W]."""
        h_BCHW = self.conv_in(F.silu(self.norm_in(x_BCHW)))
        return x_BCHW + self.conv_out(F.silu(self.norm_out(h_BCHW)))


class ImageEncoder(nn.Module):
    """Patches, stages of residual blocks on ever coarser grids, the maximum over the last grid.

    The maximum and not the mean: a small thing on a plain ground fills few cells, and the mean of
    two such pictures is nearly the same.
    """

    def __init__(self, config: SmallPairConfig) -> None:
        super().__init__()
        widths = [config.width * 2**stage for stage in range(config.stages)]
        self.patch = config.patch
        self.patch_in = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.stages = nn.ModuleList(
            nn.Sequential(*(ConvBlock(width) for _ in range(config.blocks))) for width in widths
        )
        self.shrinks = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
            for fine, coarse in itertools.pairwise(widths)
        )
        self.norm = nn.LayerNorm(widths[-1])
        self.project = nn.Linear(widths[-1], config.embedding_width, bias=False)

    def forward(self, x_B3HW: Tensor) -> Tensor:
        """Returns [B, E], not normalised, in the dtype of the weights.

        Raises:
            ValueError: if a side of the picture is not a multiple of the patch.
        """
        height, width = x_B3HW.shape[-2:]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"pictures of {[height, width]} (height, width), wanted multiples of "
                f"patch={self.patch}"
            )
        x_BCHW = self.patch_in(x_B3HW.to(self.patch_in.weight.dtype))
        for index, stage in enumerate(self.stages):
            if index:
                x_BCHW = self.shrinks[index - 1](x_BCHW)
            x_BCHW = stage(x_BCHW)
        return self.project(self.norm(x_BCHW.amax(dim=(-2, -1))))


class LogitScale(nn.Module):
    """The learned factor of the cosines, at most 100.

    Source: Radford et al. 2021, arXiv:2103.00020, section 2.5. There the weight is cut after
    each step, here its use is: a weight that has stepped beyond the limit rests there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.full((1,), math.log(1 / FIRST_TEMPERATURE)))

    def forward(self) -> Tensor:
        """Returns a scalar, float32."""
        return self.log.float().exp().clamp(max=LARGEST_SCALE).squeeze(0)


class SmallPair(ImageTextPair):
    """A byte encoder and a small convolutional net, each with a projection to a common space.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3; both networks are ours.
    """

    def __init__(self, config: SmallPairConfig) -> None:
        super().__init__()
        self.width = config.text.width
        self.embedding_width = config.embedding_width
        self.max_length = config.text.max_length
        self.trainable = True
        self.text_encoder = Byt5Encoder(config.text)
        self.text_project = nn.Linear(config.text.width, config.embedding_width, bias=False)
        self.image_encoder = ImageEncoder(config)
        self.logit_scale = LogitScale()

    def blocks(self) -> list[nn.Module]:
        """The blocks of both networks, to be compiled or checkpointed one by one."""
        stages = self.image_encoder.stages
        convolutions = [block for stage in stages for block in stage.children()]
        return [*self.text_encoder.layers, *convolutions]

    def forward(self, tokens: Tokens, x_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the contrastive loss needs of a batch.

        A plain tuple: DeepSpeed looks for a network's output tensors in tuples and dicts only,
        and where it finds none it sums the gradients of some micro-batches twice.

        Args:
            tokens: captions as ``tokenize`` gives them.
            x_B3HW: a picture per caption, pixels in [-1, 1]; sides are multiples of the patch.

        Returns:
            Text and image embeddings, both [B, E], float32, norm 1, and the factor of their
            cosines, a scalar.
        """
        return self.text(tokens).embedding_BE, self.image(x_B3HW), self.logit_scale()

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """See ``byte_tokens``; the empty caption is one end token."""
        return self.text_encoder.tokenize(captions)

    def text(self, tokens: Tokens) -> PairText:
        """Tokens to states, in the dtype of the weights, and embeddings."""
        states = self.text_encoder(tokens.ids_BL, tokens.mask_BL)
        return PairText(states=states, embedding_BE=unit(self.text_project(states.pooled_BD)))

    def image(self, x_B3HW: Tensor) -> Tensor:
        """Pictures to embeddings.

        Raises:
            ValueError: if a side of the picture is not a multiple of the patch.
        """
        return unit(self.image_encoder(x_B3HW))
