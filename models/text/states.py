"""What a text encoder takes and gives.

Shape letters: B captions, L tokens of the longest one (padded), D width of the encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

EMPTY_CAPTION = ""  # what a dropped caption is replaced by


@dataclass(frozen=True)
class Tokens:
    """Captions as numbers."""

    ids_BL: Tensor  # int64
    mask_BL: Tensor  # bool, True = real token

    def to(self, device: torch.device | str) -> "Tokens":
        """The same on another device."""
        return Tokens(ids_BL=self.ids_BL.to(device), mask_BL=self.mask_BL.to(device))


@dataclass(frozen=True)
class TextStates:
    """Captions as vectors. Every caption has at least one real token, the end token."""

    tokens_BLD: Tensor
    mask_BL: Tensor  # bool, True = real token
    pooled_BD: Tensor

    def to(self, device: torch.device | str) -> "TextStates":
        """The same on another device."""
        return TextStates(
            tokens_BLD=self.tokens_BLD.to(device),
            mask_BL=self.mask_BL.to(device),
            pooled_BD=self.pooled_BD.to(device),
        )

    def rows(self, rows_G: Tensor) -> "TextStates":
        """The captions at these places, [G], int64; any of them more than once."""
        return TextStates(
            tokens_BLD=self.tokens_BLD[rows_G],
            mask_BL=self.mask_BL[rows_G],
            pooled_BD=self.pooled_BD[rows_G],
        )


def distinct(captions: Sequence[str]) -> tuple[list[str], Tensor]:
    """Every caption once, in order, and for each of the given ones its place there, [G], int64.

    Frames of one clip share a caption: an encoder need not read it once per frame.
    """
    places = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    return list(places), torch.tensor([places[caption] for caption in captions])


class TextEncoder(nn.Module):
    """The interface of every text encoder.

    Attributes:
        width: D of the states.
        max_length: tokens of a caption at most.
        trainable: whether it is trained along with the denoiser; a frozen one never changes.
    """

    width: int
    trainable: bool
    max_length: int

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Captions to padded tokens on the CPU; the empty caption is one end token."""
        raise NotImplementedError

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> TextStates:
        """Tokens to states; padding has no influence on real tokens."""
        raise NotImplementedError
