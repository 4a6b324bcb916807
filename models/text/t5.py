"""The T5 family as a frozen text encoder.

Shape letters: B captions, L tokens, D width.
"""

import torch
from torch import Tensor
from transformers import MT5EncoderModel, T5EncoderModel, UMT5EncoderModel

from models.text.config import T5Config
from models.text.pretrained import FrozenEncoder, load_pretrained, masked_mean
from models.text.states import TextStates

_CLASSES = {"t5": T5EncoderModel, "mt5": MT5EncoderModel, "umt5": UMT5EncoderModel}


class T5Encoder(FrozenEncoder):
    """Encoder half of T5, mT5, UMT5 or ByT5; the pooled vector is the mean of the tokens.

    Source: Raffel et al. 2019, arXiv:1910.10683; frozen for generation as in Saharia et al. 2022,
    arXiv:2205.11487. T5 has no vector for a whole text, so the mean stands for one.
    """

    def __init__(self, config: T5Config) -> None:
        model, tokenizer = load_pretrained(config.path, classes=_CLASSES, dtype=config.dtype)
        super().__init__(
            model,
            tokenizer=tokenizer,
            width=model.config.d_model,  # pyright: ignore[reportAttributeAccessIssue,reportArgumentType]
            max_length=config.max_length,
        )

    @torch.no_grad()
    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> TextStates:
        """Returns states in the dtype of the weights, without gradient."""
        tokens_BLD = self.model(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        return TextStates(
            tokens_BLD=tokens_BLD, mask_BL=mask_BL, pooled_BD=masked_mean(tokens_BLD, mask_BL)
        )
