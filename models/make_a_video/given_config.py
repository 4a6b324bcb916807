"""What a recipe says about the frames that an interpolation network is given in training."""

from typing import Annotated

from pydantic import Field, PositiveInt

from models.config import Strict


class GivenConfig(Strict):
    """Which frames of a training clip are known.

    Each clip draws a frame skip from ``skips`` and is given every so many frames, or, in a share
    ``ends`` of the clips, the first or the last few: to go on from them or to lead up to them.

    Source: Singer et al. 2022 (Make-A-Video), arXiv:2209.14792, section 3.3: varying frame skips
    and rates, and masks at the start and the end; their distribution is not published.
    """

    skips: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    ends: float = Field(default=0.1, ge=0.0, le=1.0)
