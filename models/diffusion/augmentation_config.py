"""What a recipe says about the noise on a super-resolution model's input."""

from typing import Literal, Self

from pydantic import Field, model_validator

from models.config import Strict


class AugmentationConfig(Strict):
    """Noise on the smaller clip that a super-resolution model starts from.

    A level is a time of ``schedule``: 0 leaves the clip as it is, 1 is noise alone (nearly so, on
    DDPM's linear one). Training draws it evenly from [0, ``level_max``], sampling takes ``level``.

    Source: Ho et al. 2021, arXiv:2106.15282 (non-truncated conditioning augmentation); Imagen,
    arXiv:2205.11487, section 2.4: even in [0, 1], then 0.1 to 0.3. Imagen Video,
    arXiv:2210.02303, section 2.5 samples at a signal-to-noise ratio of 3 or 5, which are the
    levels 0.333 and 0.268 of the cosine schedule. How training draws it, and on which schedule,
    is not published.
    """

    schedule: Literal["cosine", "linear"] = "cosine"

    level_max: float = Field(default=1.0, gt=0.0, le=1.0)
    level: float = Field(default=0.2, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _sampling_level_was_seen(self) -> Self:
        if self.level > self.level_max:
            raise ValueError(f"level={self.level} is above level_max={self.level_max}")
        return self
