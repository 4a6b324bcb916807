"""Both towers of CLIP as a frozen pair.

Shape letters: B captions or pictures, E width of an embedding, H W height and width of a picture,
S side of the square that the checkpoint sees.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPModel

from models.text.pair_config import PretrainedPairConfig
from models.text.pair_states import ImageTextPair, PairText, unit
from models.text.pretrained import load_pretrained, pad_tokens
from models.text.states import TextStates, Tokens

# Of pixels in [0, 1], red green blue. Source: CLIP's published code (openai/CLIP, clip/clip.py).
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


class PretrainedPair(ImageTextPair):
    """CLIP with its projections; in eval mode whatever its owner is in.

    Source: Radford et al. 2021, arXiv:2103.00020. Frozen, as Make-A-Video has it (Singer et al.
    2022, arXiv:2209.14792, section 3.1).
    """

    def __init__(self, config: PretrainedPairConfig) -> None:
        super().__init__()
        model, tokenizer = load_pretrained(
            config.path, classes={"clip": CLIPModel}, dtype=config.dtype, field="pair.path"
        )
        assert isinstance(model, CLIPModel)
        text, vision = model.config.text_config, model.config.vision_config
        positions: int = text.max_position_embeddings  # pyright: ignore
        if config.max_length > positions:
            raise ValueError(
                f"pair.max_length={config.max_length}, wanted at most {positions}: "
                f"pair.path={config.path} has no more positions"
            )
        self.width: int = text.hidden_size  # pyright: ignore
        self.side: int = vision.image_size  # pyright: ignore
        self.embedding_width = model.projection_dim  # pyright: ignore
        self.max_length = config.max_length
        self.trainable = False
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.mean_311 = torch.nn.Buffer(torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.std_311 = torch.nn.Buffer(torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> "PretrainedPair":
        """Stays in eval mode: a frozen pair has no dropout."""
        del mode
        return super().train(False)

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Pads to the longest caption, cuts at ``max_length``; "" is a start and an end token."""
        return pad_tokens(captions, tokenizer=self.tokenizer, max_length=self.max_length)

    @torch.no_grad()
    def text(self, tokens: Tokens) -> PairText:
        """Tokens to states, in the dtype of the weights, and embeddings; without gradient."""
        out = self.model.text_model(input_ids=tokens.ids_BL, attention_mask=tokens.mask_BL)
        return PairText(
            states=TextStates(
                tokens_BLD=out.last_hidden_state,
                mask_BL=tokens.mask_BL,
                pooled_BD=out.pooler_output,
            ),
            embedding_BE=unit(self.model.text_projection(out.pooler_output)),
        )

    @torch.no_grad()
    def image(self, x_B3HW: Tensor) -> Tensor:
        """Pictures of any size to embeddings, without gradient; see ``fit_square``."""
        x_B3SS = fit_square(x_B3HW.float(), side=self.side)
        x_B3SS = ((x_B3SS + 1) / 2 - self.mean_311) / self.std_311
        pixels = x_B3SS.to(self.model.visual_projection.weight.dtype)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return unit(self.model.visual_projection(pooled))


def fit_square(x_B3HW: Tensor, *, side: int) -> Tensor:
    """The middle square of each picture, resized by bicubic interpolation with antialiasing.

    CLIP's own code resizes before it crops; here the order is turned, which needs no rounding of
    the longer side. Pixels beyond [-1, 1] are cut, as they are there.

    Args:
        x_B3HW: pixels in [-1, 1], float32.
        side: S, pixels.

    Returns:
        [B, 3, S, S].
    """
    height, width = x_B3HW.shape[-2:]
    shorter = min(height, width)
    top, left = (height - shorter) // 2, (width - shorter) // 2
    square = x_B3HW[..., top : top + shorter, left : left + shorter]
    if shorter == side:
        return square
    resized = F.interpolate(
        square, size=(side, side), mode="bicubic", align_corners=False, antialias=True
    )
    return resized.clamp(-1.0, 1.0)
