"""Captions as UTF-8 bytes, and a small encoder that is trained along with the denoiser.

Shape letters: B captions, L bytes (padded), D width, H heads, K = D / H, P = K / 2.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.attention import SelfAttention
from models.nn.rope import rope_table
from models.text.config import Byt5Config
from models.text.states import TextEncoder, TextStates, Tokens

PAD, END, OFFSET = 0, 1, 3
VOCABULARY = OFFSET + 256
_LENGTH_STEP = 16


def byte_tokens(captions: Sequence[str], *, max_length: int) -> Tokens:
    """Bytes plus 3, then the end token 1; padded with 0 to the next multiple of 16.

    Lengths come in steps, so that a compiled encoder sees few shapes. Longer captions are cut.

    Source: the ids of ByT5, Xue et al. 2021, arXiv:2105.13626.
    """
    rows = [
        [byte + OFFSET for byte in caption.encode()[: max_length - 1]] + [END]
        for caption in captions
    ]
    longest = max(len(row) for row in rows)
    length = min(-(-longest // _LENGTH_STEP) * _LENGTH_STEP, max_length)
    ids_BL = torch.tensor([row + [PAD] * (length - len(row)) for row in rows])
    return Tokens(ids_BL=ids_BL, mask_BL=ids_BL != PAD)


class EncoderLayer(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width=width, heads=heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_hidden = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x_BLD: Tensor, mask_B11L: Tensor, rope_2LP: Tensor) -> Tensor:
        """Returns [B, L, D]."""
        x_BLD = x_BLD + self.attention(self.attention_norm(x_BLD), rope_2LP, mask_B11L)
        return x_BLD + self.mlp_out(F.gelu(self.mlp_hidden(self.mlp_norm(x_BLD))))


class Pool(nn.Module):
    """One vector per caption: each head weighs the tokens its own way."""

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.logits = nn.Linear(width, heads)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Returns [B, D]."""
        logits_BLH = self.logits(x_BLD).masked_fill(~mask_BL[..., None], float("-inf"))
        weight_BHL = logits_BLH.softmax(dim=1).transpose(1, 2)
        value_BHLK = self.value(x_BLD).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.out((weight_BHL[:, :, None] @ value_BHLK).flatten(1))


class Byt5Encoder(TextEncoder):
    """Bytes, a convolution that sees letter groups, a few transformer layers, a pooled vector.

    The convolution turns bytes into short words at once, which attention alone would have to
    learn from positions; the rest then tells captions apart after few steps.
    With a stride, groups of bytes become one token, as in CANINE (Clark et al. 2021,
    arXiv:2103.06874, section 3.2): the denoiser attends to that many fewer.
    The vocabulary is ByT5's, the network is ours (ByT5's own encoder is a ``t5`` text encoder).
    """

    def __init__(self, config: Byt5Config) -> None:
        super().__init__()
        self.width = config.width
        self.trainable = True
        self.max_length = config.max_length
        self.head_width = config.width // config.heads
        self.embedding = nn.Embedding(VOCABULARY, config.width)
        self.letters = nn.Conv1d(
            config.width,
            config.width,
            config.kernel,
            stride=config.stride,
            padding=config.kernel // 2,
        )
        self.stride = config.stride
        self.layers = nn.ModuleList(
            EncoderLayer(width=config.width, heads=config.heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.pool = Pool(width=config.width, heads=config.heads)

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """See ``byte_tokens``."""
        return byte_tokens(captions, max_length=self.max_length)

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> TextStates:
        """Returns states in the dtype of the weights."""
        # Padding is zeroed before the convolution, so that a caption ends like a padded one.
        x_BLD = self.embedding(ids_BL) * mask_BL[..., None]
        letters_BDL = self.letters(x_BLD.transpose(1, 2))
        if self.stride > 1:
            x_BLD = x_BLD.unflatten(1, (-1, self.stride)).sum(dim=2)
            mask_BL = mask_BL.unflatten(1, (-1, self.stride)).any(dim=2)
        x_BLD = x_BLD + F.gelu(letters_BDL).transpose(1, 2)
        rope_2LP = rope_table(
            (x_BLD.shape[1], 1, 1),
            axes=(self.head_width, 0, 0),
            theta=10_000.0,
            device=ids_BL.device,
        )
        mask_B11L = mask_BL[:, None, None, :]
        for layer in self.layers:
            x_BLD = layer(x_BLD, mask_B11L, rope_2LP)
        x_BLD = self.norm(x_BLD)
        return TextStates(tokens_BLD=x_BLD, mask_BL=mask_BL, pooled_BD=self.pool(x_BLD, mask_BL))
