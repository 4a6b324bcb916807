"""What a recipe says about the diffusion prior (no torch)."""

from typing import Literal, Self

from pydantic import PositiveFloat, PositiveInt, model_validator

from models.config import Strict


class PriorConfig(Strict):
    """A transformer that turns a caption and noise into a CLIP image embedding."""

    kind: Literal["clip_prior"] = "clip_prior"
    width: PositiveInt
    heads: PositiveInt
    depth: PositiveInt
    mlp_ratio: PositiveInt = 4
    text_tokens: PositiveInt = 77  # positions for the encoded caption: the longest one's tokens
    scale: PositiveFloat | None = None  # of embeddings of norm 1; null: sqrt of their width

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width={self.width} is not a multiple of heads={self.heads}")
        return self
