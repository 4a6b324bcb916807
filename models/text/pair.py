"""One interface for every pair of a text and an image encoder."""

from models.text.pair_config import (
    PairConfig,
    PretrainedPairConfig,
    SmallPairConfig,
    check_pair,
)
from models.text.pair_states import ImageTextPair, PairText
from models.text.small_pair import SmallPair

__all__ = ["ImageTextPair", "PairText", "build_pair"]


def build_pair(config: PairConfig) -> ImageTextPair:
    """The pair that a recipe asks for; a pretrained one comes frozen and in eval mode.

    Raises:
        ValueError: if a pretrained pair is not there or cannot be loaded.
        ConnectionError: if the hub does not answer and its cache lacks a part.
    """
    check_pair(config)
    match config:
        case SmallPairConfig():
            return SmallPair(config)
        case PretrainedPairConfig():
            # transformers takes seconds to import: only those who use it wait for it.
            from models.text.pretrained_pair import PretrainedPair

            return PretrainedPair(config)
