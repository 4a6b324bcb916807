"""The diffusion prior: a caption, a time and a noisy image embedding in, the clean one out.

Shape letters:
  B captions   L text tokens   D model width   S width of the text states   E width of an embedding
  M = L + 4 tokens of the sequence   H heads   K = D / H
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.make_a_video.prior_config import PriorConfig
from models.nn.attention import SelfProjection, attend
from models.nn.embeddings import TimeEmbedding
from models.nn.norms import EPS
from models.text.pair_states import PairText

AFTER_TEXT = 4  # text embedding, time, noisy image embedding, final token


class PriorBlock(nn.Module):
    """Pre-norm attention under a mask, and MLP.

    The RMS norm on queries and keys is our addition: it keeps attention logits bounded in bf16.
    """

    def __init__(self, *, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=EPS)
        self.attention = SelfProjection(width=width, heads=heads)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=EPS)
        self.mlp_hidden = nn.Linear(width, mlp_ratio * width)
        self.mlp_out = nn.Linear(mlp_ratio * width, width)

    def forward(self, x_BMD: Tensor, mask_B1MM: Tensor) -> Tensor:
        """Returns [B, M, D]; see ``attend`` for the mask."""
        q_BHMK, k_BHMK, v_BHMK = self.attention(self.attention_norm(x_BMD))
        x_BMD = x_BMD + self.attention_out(attend(q_BHMK, k_BHMK, v_BHMK, mask_B1MM))
        hidden = F.gelu(self.mlp_hidden(self.mlp_norm(x_BMD)), approximate="tanh")
        return x_BMD + self.mlp_out(hidden)


class PriorInput(nn.Module):
    """Lays out the sequence: the encoded text, then four tokens that each say one thing.

    The four have positions of their own, so a caption's padding moves nothing. The final token
    is nothing but its position, a learned vector.
    """

    def __init__(
        self, *, width: int, embedding_width: int, text_width: int, text_tokens: int
    ) -> None:
        super().__init__()
        self.text_tokens = text_tokens
        self.word_norm = nn.RMSNorm(text_width, eps=EPS)
        self.words = nn.Linear(text_width, width)
        self.text = nn.Linear(embedding_width, width)
        self.time = TimeEmbedding(width=width)
        self.image = nn.Linear(embedding_width, width)
        self.positions = nn.Parameter(torch.empty(text_tokens + AFTER_TEXT, width))

    def forward(self, x_BE: Tensor, t_B: Tensor, words_BLS: Tensor, text_BE: Tensor) -> Tensor:
        """Returns [B, M, D] in the dtype of the weights."""
        dtype = self.positions.dtype
        words_BLD = self.words(self.word_norm(words_BLS.to(dtype)))
        time_BD = self.time(t_B)
        rest = (self.text(text_BE.to(dtype)), time_BD, self.image(x_BE.to(dtype)))
        rest_B4D = torch.stack([*rest, torch.zeros_like(time_BD)], dim=1)
        words_BLD = words_BLD + self.positions[: words_BLD.shape[1]]
        return torch.cat([words_BLD, rest_B4D + self.positions[self.text_tokens :]], dim=1)


class Prior(nn.Module):
    """A decoder-only transformer over a caption and a noisy image embedding.

    Sequence, under a causal mask: the encoded text, the CLIP text embedding, the time, the noisy
    CLIP image embedding, and a final token whose output is the prediction. Made for the objective
    of kind x0 with the cosine schedule; what it sees and predicts is ``scale`` times embeddings
    of norm 1, so that their entries are of the noise's size.

    Text is dropped by the caller, as elsewhere in this repository: a dropped caption is the empty
    one, for the encoded text and for the text embedding alike. So the null condition is a caption
    that the pair can read at any time, and there is no weight that some batches leave out.

    Source: Ramesh et al. 2022 (DALL-E 2), arXiv:2204.06125, section 2.2 and appendix C. How the
    null condition looks, the text encoder's place and the initialisation are not published: the
    encoded text is the pair's token states (as in Karlo, a published replication), linear
    layers start as in DiT, the output at zero.
    """

    def __init__(self, config: PriorConfig, *, embedding_width: int, text_width: int) -> None:
        super().__init__()
        self.config = config
        self.embedding_width = embedding_width
        self.text_width = text_width
        self.scale = config.scale or math.sqrt(embedding_width)
        self.sequence = PriorInput(
            width=config.width,
            embedding_width=embedding_width,
            text_width=text_width,
            text_tokens=config.text_tokens,
        )
        self.layers = nn.ModuleList(
            PriorBlock(width=config.width, heads=config.heads, mlp_ratio=config.mlp_ratio)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self.out = nn.Linear(config.width, embedding_width)
        self._initialise()

    def blocks(self) -> list[nn.Module]:
        """The blocks in order, to be compiled or checkpointed one by one."""
        return list(self.layers)

    def forward(self, x_BE: Tensor, t_B: Tensor, text: PairText) -> Tensor:
        """Predicts the objective's target.

        Args:
            x_BE: noisy image embeddings, [B, E]; the clean ones are ``scale`` times norm 1.
            t_B: times in [0, 1], [B]; 0 is clean.
            text: captions as the pair gives them, padded at their end.

        Returns:
            [B, E], float32.

        Raises:
            ValueError: if a width differs from the model's, or a caption is too long for it.
        """
        self._check(x_BE, text)
        text_BE = self.scale * text.embedding_BE
        x_BMD = self.sequence(x_BE, t_B, text.states.tokens_BLD, text_BE)
        mask_B1MM = _causal(text.states.mask_BL)
        for block in self.layers:
            x_BMD = block(x_BMD, mask_B1MM)
        return self.out(self.norm(x_BMD[:, -1])).float()

    def _check(self, x_BE: Tensor, text: PairText) -> None:
        widths = (x_BE.shape[-1], text.embedding_BE.shape[-1])
        if widths != (self.embedding_width, self.embedding_width):
            raise ValueError(
                f"image and text embeddings have widths {widths}, wanted {self.embedding_width}"
            )
        tokens, width = text.states.tokens_BLD.shape[1:]
        if width != self.text_width:
            raise ValueError(f"text has width {width}, wanted {self.text_width}")
        if tokens > self.config.text_tokens:
            raise ValueError(
                f"captions of {tokens} tokens, wanted at most text_tokens={self.config.text_tokens}"
            )

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.sequence.positions, std=0.02)
        nn.init.zeros_(self.out.weight)


def _causal(mask_BL: Tensor) -> Tensor:
    """Real tokens that do not come later, [B, 1, M, M]; each row has one, the first word."""
    seen_BM = F.pad(mask_BL, (0, AFTER_TEXT), value=True)
    tokens = seen_BM.shape[1]
    earlier_MM = torch.ones(tokens, tokens, dtype=torch.bool, device=mask_BL.device).tril()
    return earlier_MM & seen_BM[:, None, None, :]
