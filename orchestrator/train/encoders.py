"""Text encoders and pairs of a recipe, with their errors told as the user's."""

from models.text.config import TextConfig
from models.text.encoder import TextEncoder, build_text_encoder
from models.text.pair import ImageTextPair, build_pair
from models.text.pair_config import PairConfig
from orchestrator.train.pretrained import as_user_errors


def load_text(config: TextConfig) -> TextEncoder:
    """The text encoder that a recipe asks for.

    Raises:
        UserError: if a pretrained one is not there or cannot be loaded.
        UnavailableError: if the hub does not answer and its cache lacks a part.
    """
    with as_user_errors():
        return build_text_encoder(config)


def load_encoders(config: PairConfig) -> ImageTextPair:
    """The pair that a recipe asks for; raises as ``load_text``."""
    with as_user_errors():
        return build_pair(config)
