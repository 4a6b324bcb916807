"""A clip's tokens on one rank, or shared by the ranks of a group (Ulysses).

In a group a rank has its part of the tokens and all heads outside of attention; inside it has all
tokens and its part of the heads. Text is whole on every rank, which attends with its heads for it.

Shape letters:
  B clips   S ranks of the group   L text tokens   D any width
  M tokens of a clip   N those of one rank, the last ones padding if S does not divide M
  H heads   G heads of one rank (H = S * G)   K width of one head   C = G * K

Gradients: whatever comes from other ranks comes by ``exchange``, whose backward pass is its own
adjoint. So the sum of the gradients that the ranks hold is the gradient of the sum of their losses.
Every rank of a group ends in the same loss, and the mean of the gradients over the ranks is that
loss's gradient: engines average as they do without groups.

Source: Jacobs et al. 2023, arXiv:2309.14509, section 3.1 (DeepSpeed-Ulysses).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Heads = tuple[Tensor, ...]  # [B, heads, tokens, K] each: queries, keys, values or some of them


class TokenGroup(Protocol):
    """The ranks that share the tokens of a clip."""

    @property
    def size(self) -> int:
        """Ranks of the group."""
        ...

    @property
    def index(self) -> int:
        """This rank's place among them, from 0."""
        ...

    def exchange(self, x_SX: Tensor) -> Tensor:
        """Sends ``x_SX[s]`` to rank s, and returns what rank s sent here as ``[s]``.

        Collective, also backward; X is any shape, the same on every rank.
        """
        ...


class Tokens(Protocol):
    """Where the tokens of a clip are. All methods but ``own`` and ``own_heads`` are collective."""

    def own(self, x_BMD: Tensor) -> Tensor:
        """This rank's tokens [B, N, D] of those that every rank has; padding is zeros."""
        ...

    def whole(self, x_BND: Tensor, *, tokens: int) -> Tensor:
        """The tokens of all ranks, [B, M, D]; M is ``tokens``."""
        ...

    def heads(self, video: Heads, *, tokens: int) -> Heads:
        """From this rank's tokens [B, H, N, K] to all tokens of its heads [B, G, M, K]."""
        ...

    def own_heads(self, text: Heads) -> Heads:
        """This rank's heads [B, G, L, K] of those that every rank has."""
        ...

    def gathered(self, x_BMC: Tensor) -> Tensor:
        """From all tokens of this rank's heads, joined, to all heads of its tokens [B, N, D]."""
        ...

    def whole_heads(self, x_BLC: Tensor) -> Tensor:
        """The heads of all ranks, joined, [B, L, D]."""
        ...

    def heads_beside(self, both: Heads, *, tokens: int, words: int) -> Heads:
        """``heads`` of the video tokens, ``own_heads`` of the L = ``words`` text tokens behind."""
        ...

    def gathered_beside(self, x_BMC: Tensor, *, words: int) -> Tensor:
        """``gathered`` of the video tokens and ``whole_heads`` of the text tokens behind."""
        ...


class AllTokens:
    """They are all here: one rank, one clip. Nothing is done and nothing copied."""

    def own(self, x_BMD: Tensor) -> Tensor:
        """See ``Tokens``."""
        return x_BMD

    def whole(self, x_BND: Tensor, *, tokens: int) -> Tensor:
        """See ``Tokens``."""
        del tokens
        return x_BND

    def heads(self, video: Heads, *, tokens: int) -> Heads:
        """See ``Tokens``."""
        del tokens
        return video

    def own_heads(self, text: Heads) -> Heads:
        """See ``Tokens``."""
        return text

    def gathered(self, x_BMC: Tensor) -> Tensor:
        """See ``Tokens``."""
        return x_BMC

    def whole_heads(self, x_BLC: Tensor) -> Tensor:
        """See ``Tokens``."""
        return x_BLC

    def heads_beside(self, both: Heads, *, tokens: int, words: int) -> Heads:
        """See ``Tokens``."""
        del tokens, words
        return both

    def gathered_beside(self, x_BMC: Tensor, *, words: int) -> Tensor:
        """See ``Tokens``."""
        del words
        return x_BMC


@dataclass(frozen=True)
class SharedTokens:
    """The ranks of a group have a part each; the number of heads must be a multiple of theirs."""

    group: TokenGroup

    def own(self, x_BMD: Tensor) -> Tensor:
        """See ``Tokens``."""
        count = self._count(x_BMD.shape[1])
        first = self.group.index * count
        x_BND = x_BMD[:, first : first + count]
        return F.pad(x_BND, (0, 0, 0, count - x_BND.shape[1]))

    def whole(self, x_BND: Tensor, *, tokens: int) -> Tensor:
        """See ``Tokens``."""
        x_SBND = self.group.exchange(x_BND.expand(self.group.size, *x_BND.shape))
        return x_SBND.transpose(0, 1).flatten(1, 2)[:, :tokens]

    def heads(self, video: Heads, *, tokens: int) -> Heads:
        """See ``Tokens``; one exchange for all of them."""
        # [S, B, X * G, N, K] for X tensors: those of one rank's heads beside each other.
        parts = [x_BHNK.unflatten(1, (self.group.size, -1)).movedim(1, 0) for x_BHNK in video]
        joined = self.group.exchange(torch.cat(parts, dim=2))
        whole = joined.movedim(0, 2).flatten(2, 3)[:, :, :tokens]
        return whole.chunk(len(video), dim=1)

    def own_heads(self, text: Heads) -> Heads:
        """See ``Tokens``."""
        return tuple(x.chunk(self.group.size, dim=1)[self.group.index] for x in text)

    def gathered(self, x_BMC: Tensor) -> Tensor:
        """See ``Tokens``."""
        size, tokens = self.group.size, x_BMC.shape[1]
        padding = self._count(tokens) * size - tokens
        if padding:
            x_BMC = F.pad(x_BMC, (0, 0, 0, padding))
        x_SBNC = self.group.exchange(x_BMC.unflatten(1, (size, -1)).movedim(1, 0))
        return x_SBNC.movedim(0, 2).flatten(2)

    def whole_heads(self, x_BLC: Tensor) -> Tensor:
        """See ``Tokens``."""
        x_SBLC = self.group.exchange(x_BLC.expand(self.group.size, *x_BLC.shape))
        return x_SBLC.movedim(0, 2).flatten(2)

    def heads_beside(self, both: Heads, *, tokens: int, words: int) -> Heads:
        """See ``Tokens``."""
        count = both[0].shape[2] - words
        video = self.heads(tuple(x[:, :, :count] for x in both), tokens=tokens)
        text = self.own_heads(tuple(x[:, :, count:] for x in both))
        return tuple(torch.cat(pair, dim=2) for pair in zip(video, text, strict=True))

    def gathered_beside(self, x_BMC: Tensor, *, words: int) -> Tensor:
        """See ``Tokens``."""
        tokens = x_BMC.shape[1] - words
        video_BND, text_BLC = self.gathered(x_BMC[:, :tokens]), x_BMC[:, tokens:]
        return torch.cat([video_BND, self.whole_heads(text_BLC)], dim=1)

    def _count(self, tokens: int) -> int:
        """Tokens of one rank, padding among them."""
        return -(-tokens // self.group.size)
