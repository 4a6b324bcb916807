"""Attention over tokens: of a clip to itself, and of a clip to its text.

Shape letters:
  B clips   N query tokens   M key tokens   L text tokens   D model width
  H heads   K width of one head (D = H * K)   P = K / 2 rotary pairs
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.norms import EPS
from models.nn.rope import rotate
from models.nn.sequence import AllTokens, Tokens


def split_heads(x_BND: Tensor, heads: int) -> Tensor:
    """[B, N, D] to [B, H, N, K], without a copy."""
    return x_BND.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(
    q_BHNK: Tensor, k_BHMK: Tensor, v_BHMK: Tensor, mask_B1NM: Tensor | None = None
) -> Tensor:
    """Softmax attention, heads joined again.

    Args:
        q_BHNK: queries, [B, H, N, K].
        k_BHMK: keys, [B, H, M, K].
        v_BHMK: values, [B, H, M, K].
        mask_B1NM: bool, False = not attended; a 1 in the place of N is a mask for all queries.
            Each query needs at least one True. Or numbers to add to the logits, of a shape that
            broadcasts to [B, H, N, M].

    Returns:
        [B, N, D].
    """
    out_BHNK = F.scaled_dot_product_attention(q_BHNK, k_BHMK, v_BHMK, attn_mask=mask_B1NM)
    return out_BHNK.transpose(1, 2).flatten(2)


class HeadNorm(nn.Module):
    """RMS norm of queries and of keys, per head, with their own weights.

    Keeps attention logits bounded in bf16. Source: Dehghani et al. 2023, arXiv:2302.05442,
    section 2 (there a LayerNorm); RMS as in Esser et al. 2024, arXiv:2403.03206, section 5.3.2.
    """

    def __init__(self, head_width: int) -> None:
        super().__init__()
        self.query = nn.RMSNorm(head_width, eps=EPS)
        self.key = nn.RMSNorm(head_width, eps=EPS)

    def forward(self, q_BHNK: Tensor, k_BHMK: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both, normalised, in the dtype that they came in."""
        return self.query(q_BHNK).to(q_BHNK.dtype), self.key(k_BHMK).to(k_BHMK.dtype)


class SelfProjection(nn.Module):
    """Queries, keys and values of one stream of tokens, with qk-norm."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = HeadNorm(width // heads)

    def forward(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns q, k, v, each [B, H, N, K]."""
        q_BHNK, k_BHNK, v_BHNK = (
            split_heads(part_BND, self.heads) for part_BND in self.qkv(x_BND).chunk(3, dim=-1)
        )
        return *self.norm(q_BHNK, k_BHNK), v_BHNK


class SelfAttention(nn.Module):
    """Full attention over all tokens of a clip (or of a text), with RoPE and qk-norm.

    The rope table and the mask are of all tokens, wherever they are.
    """

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.place: Tokens = AllTokens()
        self.project = SelfProjection(width=width, heads=heads)
        self.out = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, rope_2NP: Tensor, mask_B11N: Tensor | None = None) -> Tensor:
        """Returns [B, N, D]; see ``attend`` for the mask."""
        qkv = self.place.heads(self.project(x_BND), tokens=rope_2NP.shape[1])
        q_BHNK, k_BHNK, v_BHNK = qkv
        q_BHNK, k_BHNK = rotate(q_BHNK, rope_2NP), rotate(k_BHNK, rope_2NP)
        return self.out(self.place.gathered(attend(q_BHNK, k_BHNK, v_BHNK, mask_B11N)))


class CrossAttention(nn.Module):
    """Attention of a clip's tokens to its text, with qk-norm; adds nothing at first.

    The zero output projection is PixArt-alpha's (Chen et al. 2023, arXiv:2310.00426,
    section 2.3). ``text_width`` is that of the text tokens, the model's if None.
    """

    def __init__(self, *, width: int, heads: int, text_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(text_width or width, 2 * width)
        self.norm = HeadNorm(width // heads)
        self.out = nn.Linear(width, width)

    def reset_parameters(self) -> None:
        """Zero output projection; the rest is initialised by the model."""
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_BND: Tensor, text_BLD: Tensor, mask_B11L: Tensor) -> Tensor:
        """Returns [B, N, D]; see ``attend`` for the mask."""
        q_BHNK = split_heads(self.query(x_BND), self.heads)
        k_BHLK, v_BHLK = (
            split_heads(part, self.heads) for part in self.key_value(text_BLD).chunk(2, dim=-1)
        )
        q_BHNK, k_BHLK = self.norm(q_BHNK, k_BHLK)
        return self.out(attend(q_BHNK, k_BHLK, v_BHLK, mask_B11L))


def attend_jointly(
    video_qkv: tuple[Tensor, Tensor, Tensor],
    text_qkv: tuple[Tensor, Tensor, Tensor],
    mask_B11M: Tensor,
) -> tuple[Tensor, Tensor]:
    """One attention over the tokens of two streams that come from different weights.

    Args:
        video_qkv: queries, keys and values, [B, H, N, K] each.
        text_qkv: the same for text, [B, H, L, K] each.
        mask_B11M: bool over M = N + L keys, False = not attended.

    Returns:
        What video [B, N, D] and text [B, L, D] gathered.

    Source: Esser et al. 2024, arXiv:2403.03206, figure 2b (MMDiT).
    """
    q_BHMK, k_BHMK, v_BHMK = (
        torch.cat(pair, dim=2) for pair in zip(video_qkv, text_qkv, strict=True)
    )
    tokens = video_qkv[0].shape[2]
    out_BMD = attend(q_BHMK, k_BHMK, v_BHMK, mask_B11M)
    return out_BMD[:, :tokens], out_BMD[:, tokens:]
