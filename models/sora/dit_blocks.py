"""The three kinds of transformer block, all identity maps when fresh.

Shape letters:
  B clips   N video tokens   L text tokens   M = N + L   D model width
  H heads   K width of one head   P = K / 2 rotary pairs

``forward`` takes and returns tensors (and a count), so that a block can be compiled or checkpointed
alone. ``place`` says where the video tokens are: N are those of this rank, while rope tables and
masks are of all (``models/nn/sequence.py``). Text tokens are on every rank.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.attention import (
    CrossAttention,
    SelfAttention,
    SelfProjection,
    attend,
    attend_jointly,
    split_heads,
)
from models.nn.norms import EPS, Modulation, add_gated, layer_norm, modulate
from models.nn.rope import rotate
from models.nn.sequence import AllTokens, Tokens


class Mlp(nn.Module):
    """Linear, tanh-GELU, Linear."""

    def __init__(self, *, width: int, ratio: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, ratio * width)
        self.out = nn.Linear(ratio * width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Returns [B, N, D]."""
        return self.out(F.gelu(self.hidden(x_BND), approximate="tanh"))


class CrossBlock(nn.Module):
    """Self-attention, cross-attention to the text, MLP.

    Source: self-attention and MLP are Peebles & Xie 2022, arXiv:2212.09748, figure 3
    (adaLN-Zero); cross-attention between them as in PixArt-alpha, arXiv:2310.00426, figure 4.
    Ours: qk-norm, RoPE, and a LayerNorm without weights before the cross-attention.
    """

    def __init__(self, *, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.modulation = Modulation(width=width, parts=6)
        self.attention = SelfAttention(width=width, heads=heads)
        self.cross_attention = CrossAttention(width=width, heads=heads)
        self.mlp = Mlp(width=width, ratio=mlp_ratio)

    def split(self, place: Tokens) -> None:
        """Takes the video tokens from where they are."""
        self.attention.place = place

    def forward(
        self, x_BND: Tensor, cond_BD: Tensor, text_BLD: Tensor, mask_B11L: Tensor, rope_2NP: Tensor
    ) -> Tensor:
        """Returns video tokens [B, N, D]."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(cond_BD)
        update_BND = self.attention(modulate(x_BND, shift_a, scale_a), rope_2NP)
        x_BND = add_gated(x_BND, gate_a, update_BND)
        x_BND = x_BND + self.cross_attention(layer_norm(x_BND), text_BLD, mask_B11L)
        return add_gated(x_BND, gate_m, self.mlp(modulate(x_BND, shift_m, scale_m)))


class Stream(nn.Module):
    """One half of a dual block: the weights that video (or text) has for itself."""

    def __init__(self, *, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.modulation = Modulation(width=width, parts=6)
        self.project = SelfProjection(width=width, heads=heads)
        self.out = nn.Linear(width, width)
        self.mlp = Mlp(width=width, ratio=mlp_ratio)

    def finish(self, x_BND: Tensor, gathered_BND: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
        """What follows the attention: its output projection and the MLP, both gated."""
        gate_a, shift_m, scale_m, gate_m = parts
        x_BND = add_gated(x_BND, gate_a, self.out(gathered_BND))
        return add_gated(x_BND, gate_m, self.mlp(modulate(x_BND, shift_m, scale_m)))


class DualBlock(nn.Module):
    """Video and text, each with weights and modulation of its own, in one attention.

    Source: Esser et al. 2024, arXiv:2403.03206, figure 2b (MMDiT); RoPE turns video only, as in
    HunyuanVideo, arXiv:2412.03603.
    """

    def __init__(self, *, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.place: Tokens = AllTokens()
        self.video = Stream(width=width, heads=heads, mlp_ratio=mlp_ratio)
        self.text = Stream(width=width, heads=heads, mlp_ratio=mlp_ratio)

    def split(self, place: Tokens) -> None:
        """Takes the video tokens from where they are."""
        self.place = place

    def forward(
        self, x_BND: Tensor, text_BLD: Tensor, cond_BD: Tensor, mask_B11M: Tensor, rope_2NP: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns video [B, N, D] and text [B, L, D] tokens."""
        shift_v, scale_v, *rest_v = self.video.modulation(cond_BD)
        shift_t, scale_t, *rest_t = self.text.modulation(cond_BD)
        q_BHNK, k_BHNK, v_BHNK = self.place.heads(
            self.video.project(modulate(x_BND, shift_v, scale_v)), tokens=rope_2NP.shape[1]
        )
        q_BHLK, k_BHLK, v_BHLK = self.place.own_heads(
            self.text.project(modulate(text_BLD, shift_t, scale_t))
        )
        video_qkv = rotate(q_BHNK, rope_2NP), rotate(k_BHNK, rope_2NP), v_BHNK
        video_BND, words_BLD = attend_jointly(video_qkv, (q_BHLK, k_BHLK, v_BHLK), mask_B11M)
        return (
            self.video.finish(x_BND, self.place.gathered(video_BND), tuple(rest_v)),
            self.text.finish(text_BLD, self.place.whole_heads(words_BLD), tuple(rest_t)),
        )


class LastDualBlock(nn.Module):
    """A dual block after which no one reads the text: it has keys and values, nothing else.

    Source: the last block of Stable Diffusion 3 (``context_pre_only`` in its published code).
    """

    def __init__(self, *, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.place: Tokens = AllTokens()
        self.video = Stream(width=width, heads=heads, mlp_ratio=mlp_ratio)
        self.text_modulation = Modulation(width=width, parts=2)
        self.text_key_value = nn.Linear(width, 2 * width)
        self.text_norm = nn.RMSNorm(width // heads, eps=EPS)

    def split(self, place: Tokens) -> None:
        """Takes the video tokens from where they are."""
        self.place = place

    def forward(
        self, x_BND: Tensor, text_BLD: Tensor, cond_BD: Tensor, mask_B11M: Tensor, rope_2NP: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns video tokens [B, N, D], and the text tokens as they came."""
        shift_v, scale_v, *rest_v = self.video.modulation(cond_BD)
        q_BHNK, k_BHNK, v_BHNK = self.place.heads(
            self.video.project(modulate(x_BND, shift_v, scale_v)), tokens=rope_2NP.shape[1]
        )
        text = self.text_key_value(modulate(text_BLD, *self.text_modulation(cond_BD)))
        k_BHLK, v_BHLK = (split_heads(part, self.heads) for part in text.chunk(2, dim=-1))
        k_BHLK, v_BHLK = self.place.own_heads((self.text_norm(k_BHLK).to(k_BHNK.dtype), v_BHLK))
        gathered_BND = attend(
            rotate(q_BHNK, rope_2NP),
            torch.cat([rotate(k_BHNK, rope_2NP), k_BHLK], dim=2),
            torch.cat([v_BHNK, v_BHLK], dim=2),
            mask_B11M,
        )
        gathered_BND = self.place.gathered(gathered_BND)
        return self.video.finish(x_BND, gathered_BND, tuple(rest_v)), text_BLD


class SingleBlock(nn.Module):
    """Video and text as one sequence; attention and MLP side by side under one gate.

    Source: the single blocks of HunyuanVideo, arXiv:2412.03603, section 4.2.1, and Flux;
    parallel layers are Dehghani et al. 2023, arXiv:2302.05442, section 2.
    """

    def __init__(self, *, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.place: Tokens = AllTokens()
        self.modulation = Modulation(width=width, parts=3)
        self.attention = SelfProjection(width=width, heads=heads)
        self.mlp_hidden = nn.Linear(width, mlp_ratio * width)
        self.out = nn.Linear(width + mlp_ratio * width, width)

    def split(self, place: Tokens) -> None:
        """Takes the video tokens from where they are."""
        self.place = place

    def forward(
        self, x_BMD: Tensor, cond_BD: Tensor, mask_B11M: Tensor, rope_2MP: Tensor, words: int
    ) -> Tensor:
        """Returns tokens [B, M, D], the last ``words`` are text; their rope has angle 0."""
        shift_B1D, scale_B1D, gate_B1D = self.modulation(cond_BD)
        h_BMD = modulate(x_BMD, shift_B1D, scale_B1D)
        q_BHMK, k_BHMK, v_BHMK = self.place.heads_beside(
            self.attention(h_BMD), tokens=rope_2MP.shape[1] - words, words=words
        )
        gathered_BMD = attend(rotate(q_BHMK, rope_2MP), rotate(k_BHMK, rope_2MP), v_BHMK, mask_B11M)
        gathered_BMD = self.place.gathered_beside(gathered_BMD, words=words)
        hidden = F.gelu(self.mlp_hidden(h_BMD), approximate="tanh")
        return add_gated(x_BMD, gate_B1D, self.out(torch.cat([gathered_BMD, hidden], dim=-1)))
