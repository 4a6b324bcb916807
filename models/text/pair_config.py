"""What a recipe says about the pair of a text and an image encoder (no torch, no transformers)."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from models.config import Strict
from models.text.config import Byt5Config, Dtype, check_checkpoint

NORM_GROUPS = 8  # of the image encoder's group norms


class SmallPairConfig(Strict):
    """Bytes and a small convolutional net, trained by a stage of the recipe; needs no download.

    The image encoder cuts the picture into patches, then has ``stages`` of residual blocks; each
    stage after the first halves the grid and doubles the channels.
    """

    kind: Literal["clip_pair"] = "clip_pair"
    text: Byt5Config = Byt5Config()
    embedding_width: PositiveInt = 128  # of the space that both are projected to
    patch: PositiveInt = 2  # pixels along a side of the first layer's patches
    width: PositiveInt = 32  # channels of the first stage
    stages: PositiveInt = 3
    blocks: PositiveInt = 1  # residual blocks of a stage

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.width % NORM_GROUPS:
            raise ValueError(f"width={self.width}, wanted a multiple of {NORM_GROUPS}")
        return self


class ContrastiveConfig(Strict):
    """Captions and pictures of a batch are told apart by their cosines.

    Source: Radford et al. 2021, arXiv:2103.00020, figure 3.
    """

    kind: Literal["contrastive"] = "contrastive"


class PretrainedPairConfig(Strict):
    """Both frozen towers of a CLIP checkpoint."""

    kind: Literal["clip"]
    path: str = Field(min_length=1)  # a folder, or a hub name org/name
    max_length: PositiveInt = 77  # tokens, start and end included
    dtype: Dtype = "auto"


PairConfig = SmallPairConfig | PretrainedPairConfig


def check_pair(config: PairConfig) -> None:
    """Refuses a pretrained pair that is not there, before anything heavy is imported.

    Hub names (``org/name``) pass, as in ``check_text``.

    Raises:
        ValueError: one line with the path.
    """
    if isinstance(config, PretrainedPairConfig):
        check_checkpoint(config.path, field="pair.path")
