"""What is done when training is not well."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from models.config import Strict

Above1 = Annotated[float, Field(gt=1.0)]


class Health(Strict):
    """Which steps are not applied, and when training goes back to an earlier checkpoint.

    It is no part of a stage's identity: it guards what is trained, and may change between two
    starts.
    """

    spike_factor: Above1 | None = 20.0  # gradient norm over its running median; null: any goes
    loss_factor: Above1 | None = 5.0  # logged loss over its running median; null: any goes
    window: PositiveInt = 200  # steps: norms of the running median; where refused ones are counted
    budget: NonNegativeInt = 10  # steps of a window that may be refused
    patience: PositiveInt = 100  # steps for which the loss may stay high
    max_rewinds: NonNegativeInt = 5  # of a stage; then it ends with an error

    @model_validator(mode="after")
    def _budget_can_be_used_up(self) -> Self:
        if self.budget >= self.window:
            raise ValueError(f"budget={self.budget}, wanted below window={self.window}")
        return self
