"""One interface for every text encoder: captions to tokens, tokens to states."""

from models.text.byt5 import Byt5Encoder
from models.text.config import Byt5Config, ClipConfig, T5Config, TextConfig, check_text
from models.text.states import TextEncoder, TextStates, Tokens

__all__ = ["TextEncoder", "TextStates", "Tokens", "build_text_encoder"]


def build_text_encoder(config: TextConfig) -> TextEncoder:
    """The encoder that a recipe asks for; pretrained ones come frozen and in eval mode.

    Raises:
        ValueError: if a pretrained encoder is not there or cannot be loaded.
        ConnectionError: if the hub does not answer and its cache lacks a part.
    """
    check_text(config)
    match config:
        case Byt5Config():
            return Byt5Encoder(config)
        case T5Config():
            # transformers takes seconds to import: only those who use it wait for it.
            from models.text.t5 import T5Encoder

            return T5Encoder(config)
        case ClipConfig():
            from models.text.clip import ClipEncoder

            return ClipEncoder(config)
