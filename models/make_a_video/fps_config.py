"""What a recipe says about the frame rates that the decoder trains on."""

from typing import Self

from pydantic import Field, PositiveFloat, model_validator

from models.config import Strict


class FpsConfig(Strict):
    """The range of frame rates and how far training leans to either end of it.

    Source: Singer et al. 2022 (Make-A-Video), arXiv:2209.14792, section 3.4: a rate in [1, 30]
    from a beta distribution that moves from high rates, with little motion, to low ones. Its
    parameters are not published.
    """

    low: PositiveFloat = 1.0  # frames per second
    high: PositiveFloat = 30.0  # frames per second
    lean: float = Field(default=4.0, ge=1.0)  # Beta(lean, 1) at the start; 1 is even throughout

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low={self.low} with high={self.high}, wanted low below high")
        return self
