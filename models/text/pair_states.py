"""What a pair of a text and an image encoder takes and gives.

Shape letters: B captions or pictures, L tokens of the longest caption (padded), D width of the
text states, E width of an embedding, H W height and width of a picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.text.states import TextStates, Tokens


@dataclass(frozen=True)
class PairText:
    """Captions as the pair sees them: token by token, and as points of the common space."""

    states: TextStates
    embedding_BE: Tensor  # float32, norm 1

    def to(self, device: torch.device | str) -> "PairText":
        """The same on another device."""
        return PairText(
            states=self.states.to(device),
            embedding_BE=self.embedding_BE.to(device),
        )

    def repeated(self, times: int) -> "PairText":
        """Each caption ``times`` times in a row, [B * times, ...]."""
        return PairText(
            states=TextStates(
                tokens_BLD=self.states.tokens_BLD.repeat_interleave(times, dim=0),
                mask_BL=self.states.mask_BL.repeat_interleave(times, dim=0),
                pooled_BD=self.states.pooled_BD.repeat_interleave(times, dim=0),
            ),
            embedding_BE=self.embedding_BE.repeat_interleave(times, dim=0),
        )


class ImageTextPair(nn.Module):
    """The interface of every pair: captions and pictures as unit vectors of one space.

    Attributes:
        width: D of the text states.
        embedding_width: E of the common space.
        max_length: tokens of a caption at most.
        trainable: whether a stage of the recipe trains it; a frozen one never changes.
    """

    width: int
    embedding_width: int
    max_length: int
    trainable: bool

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Captions to padded tokens on the CPU."""
        raise NotImplementedError

    def text(self, tokens: Tokens) -> PairText:
        """Tokens to states and embeddings; padding has no influence on either."""
        raise NotImplementedError

    def image(self, x_B3HW: Tensor) -> Tensor:
        """Pictures with pixels in [-1, 1] to embeddings [B, E], float32, norm 1."""
        raise NotImplementedError


def unit(x_BE: Tensor) -> Tensor:
    """Vectors of norm 1, [B, E], in float32 or better."""
    return F.normalize(x_BE.to(torch.promote_types(x_BE.dtype, torch.float32)), dim=-1)
