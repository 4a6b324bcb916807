"""How a U-Net's time, rates, levels, captions and image embeddings become vectors and tokens.

Shape letters:
  B clips   T frames of a clip   N frames of all clips (B * T)   L tokens   E image embedding
  G captions or image embeddings: one per clip (B) or one per frame (N)   D width of all of it
"""

from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.attention import CrossAttention
from models.nn.embeddings import TimeEmbedding, TwoLayer, sinusoids
from models.nn.unet_config import UNetConfig
from models.nn.unet_inputs import UNetInputs
from models.text.states import TextStates

IMAGE_TOKENS = 4
_LOG_FPS = log(60.0)  # brings the logarithm of usual rates into [0, 1]


class FpsEmbedding(nn.Module):
    """Frames per second as a vector; zero at first, so that an image network can take it on.

    Source: the extra condition of Make-A-Video, arXiv:2209.14792, section 3.4; its form is not
    given. Ours: sinusoids of the logarithm.
    """

    def __init__(self, *, width: int, features: int = 256) -> None:
        super().__init__()
        self.mlp = TwoLayer(features=features, width=width)
        nn.init.zeros_(self.mlp.out.weight)
        nn.init.zeros_(self.mlp.out.bias)

    def forward(self, fps_B: Tensor) -> Tensor:
        """Returns [B, D] in the dtype of the weights."""
        waves_BF = sinusoids(fps_B.float().log() / _LOG_FPS)
        return self.mlp(waves_BF.to(self.mlp.hidden.weight.dtype))


class ImageInput(nn.Module):
    """The embedding of an image as a vector and, if they are attended to, as tokens.

    Source: Ramesh et al. 2022 (DALL-E 2), arXiv:2204.06125, section 2.1: added to the timestep
    embedding, and four tokens more to attend to.
    """

    def __init__(self, *, embedding: int, width: int, is_context: bool) -> None:
        super().__init__()
        self.vector = nn.Linear(embedding, width)
        self.tokens = nn.Linear(embedding, IMAGE_TOKENS * width) if is_context else None

    def forward(self, image_GE: Tensor) -> tuple[Tensor, Tensor | None]:
        """Returns [G, D] and, if attended to, [G, 4, D] in the dtype of the weights."""
        image_GE = image_GE.to(self.vector.weight.dtype)
        if self.tokens is None:
            return self.vector(image_GE), None
        return self.vector(image_GE), self.tokens(image_GE).unflatten(1, (IMAGE_TOKENS, -1))


class TextInput(nn.Module):
    """A text encoder's states as tokens and, pooled by attention, as a vector.

    Source: Saharia et al. 2022 (Imagen), arXiv:2205.11487, section 2.3 and appendix D: a pooled
    vector added to the timestep embedding, attention to the sequence, LayerNorm on both.
    """

    def __init__(self, *, text_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_width)
        self.tokens = nn.Linear(text_width, width)
        self.query = nn.Parameter(torch.empty(width))
        self.pool = CrossAttention(width=width, heads=heads)
        self.pooled_norm = nn.LayerNorm(width)
        self.pooled = TwoLayer(features=width, width=width)
        nn.init.normal_(self.query, std=0.02)

    def forward(self, text: TextStates) -> tuple[Tensor, Tensor]:
        """Returns a vector [G, D] and tokens [G, L, D] in the dtype of the weights."""
        tokens_GLD = self.tokens(self.norm(text.tokens_BLD.to(self.tokens.weight.dtype)))
        query_G1D = self.query.expand(len(tokens_GLD), 1, -1)
        pooled_G1D = self.pool(query_G1D, tokens_GLD, text.mask_BL[:, None, None, :])
        return self.pooled(self.pooled_norm(pooled_G1D)).squeeze(1), tokens_GLD


class Conditioning(nn.Module):
    """One vector per frame, and what may be attended to."""

    def __init__(self, config: UNetConfig, *, text_width: int | None) -> None:
        super().__init__()
        width = config.embed_width
        self.time = TimeEmbedding(width=width)
        self.augmentation = TimeEmbedding(width=width) if config.augmentation else None
        self.fps = FpsEmbedding(width=width) if config.fps else None
        self.image = (
            None
            if config.image_embedding is None
            else ImageInput(
                embedding=config.image_embedding,
                width=width,
                is_context=bool(config.context_attention),
            )
        )
        self.text = (
            None
            if text_width is None
            else TextInput(text_width=text_width, width=width, heads=width // config.head_width)
        )

    def forward(
        self, t_B: Tensor, inputs: UNetInputs, *, frames: int
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns cond [N, D] after its SiLU, tokens [G, L, D] and their mask [G, 1, 1, L].

        Tokens and mask are None if nothing is attended to. Levels, rates and embeddings are
        added up. Inputs are as ``check_inputs`` wants them.
        """
        clip_BD = self.time(t_B)
        if self.augmentation is not None:
            assert inputs.augmentation_B is not None
            clip_BD = clip_BD + self.augmentation(inputs.augmentation_B)
        if self.fps is not None:
            assert inputs.fps_B is not None
            clip_BD = clip_BD + self.fps(inputs.fps_B)
        cond_ND = clip_BD.repeat_interleave(frames, dim=0)
        tokens: list[Tensor] = []
        masks: list[Tensor] = []
        if self.text is not None:
            assert inputs.text is not None
            vector_GD, text_GLD = self.text(inputs.text)
            cond_ND = cond_ND + _repeated(vector_GD, times=len(cond_ND) // len(vector_GD))
            tokens.append(text_GLD)
            masks.append(inputs.text.mask_BL)
        if self.image is not None:
            assert inputs.image_embedding_GE is not None
            vector_GD, image_G4D = self.image(inputs.image_embedding_GE)
            cond_ND = cond_ND + _repeated(vector_GD, times=len(cond_ND) // len(vector_GD))
            if image_G4D is not None:
                tokens.append(image_G4D)
                masks.append(torch.ones_like(image_G4D[..., 0], dtype=torch.bool))
        if not tokens:
            return F.silu(cond_ND), None, None
        return F.silu(cond_ND), _joined(tokens), _joined(masks)[:, None, None, :]


def _repeated(x: Tensor, *, times: int) -> Tensor:
    return x if times == 1 else x.repeat_interleave(times, dim=0)


def _joined(parts: list[Tensor]) -> Tensor:
    """Along the tokens; where one part is per clip and another per frame, per frame."""
    captions = max(len(part) for part in parts)
    return torch.cat([_repeated(part, times=captions // len(part)) for part in parts], dim=1)
