"""What machines cost."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from models.config import Strict
from orchestrator.recipe.train import Compute

Rate = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Price(Strict):
    """Prices of an hour; a worker pays for its GPU, or else for its CPUs."""

    gpu_hour: Rate = 0.0  # of one GPU, with the CPUs and the memory that come with it
    cpu_hour: Rate = 0.0  # of one CPU of a worker that has no GPU
    currency: Annotated[str, Field(min_length=1, max_length=8)] = "USD"

    def rank_hour(self, compute: Compute) -> float:
        """The price of an hour of one worker."""
        if compute.gpus_per_worker:
            return compute.gpus_per_worker * self.gpu_hour
        return compute.cpus_per_worker * self.cpu_hour

    @model_validator(mode="after")
    def _prices_something(self) -> Self:
        if not self.gpu_hour and not self.cpu_hour:
            raise ValueError("gpu_hour=0 and cpu_hour=0, wanted the price of one of them")
        return self
