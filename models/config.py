"""What every configuration shares."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

RGB = 3  # channels of pixels
MissingFrames = Literal["repeat", "blank", "blend"]  # see ``models.cascade.lift``


class Strict(BaseModel):
    """Immutable configuration that refuses unknown keys and silent type changes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
