"""The base of every configuration class."""

from pydantic import BaseModel, ConfigDict

RGB = 3  # channels of pixels


class Strict(BaseModel):
    """Immutable configuration that refuses unknown keys and silent type changes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
