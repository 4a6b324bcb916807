"""The text tower of CLIP as a frozen text encoder.

Shape letters: B captions, L tokens, D width.
"""

import torch
from torch import Tensor
from transformers import CLIPTextModel

from models.text.config import ClipConfig
from models.text.pretrained import FrozenEncoder, load_pretrained
from models.text.states import TextStates

_CLASSES = {"clip": CLIPTextModel, "clip_text_model": CLIPTextModel}


class ClipEncoder(FrozenEncoder):
    """CLIP's text transformer; the pooled vector is the state of the end token.

    Source: Radford et al. 2021, arXiv:2103.00020, section 2.4; used unprojected, as in
    HunyuanVideo and Open-Sora 2.0.
    """

    def __init__(self, config: ClipConfig) -> None:
        model, tokenizer = load_pretrained(config.path, classes=_CLASSES, dtype=config.dtype)
        positions: int = model.config.max_position_embeddings  # pyright: ignore
        if config.max_length > positions:
            raise ValueError(
                f"text.max_length={config.max_length}, wanted at most {positions}: "
                f"text.path={config.path} has no more positions"
            )
        super().__init__(
            model,
            tokenizer=tokenizer,
            width=model.config.hidden_size,  # pyright: ignore[reportAttributeAccessIssue,reportArgumentType]
            max_length=config.max_length,
        )

    @torch.no_grad()
    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> TextStates:
        """Returns states in the dtype of the weights, without gradient."""
        out = self.model(input_ids=ids_BL, attention_mask=mask_BL)
        return TextStates(
            tokens_BLD=out.last_hidden_state, mask_BL=mask_BL, pooled_BD=out.pooler_output
        )
