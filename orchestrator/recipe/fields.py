"""Field types that several parts of a recipe share."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=80)]
"""A name that is safe in a path, an object key and an MLflow tag."""

Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
"""Height and width in pixels."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A probability or a part of a whole."""


def _steps_or_auto(value: object) -> object:
    if value == "auto" or (type(value) is int and value > 0):
        return value
    raise ValueError(f"seen {value}, wanted a number of steps from 1 on, or auto")


EverySteps = Annotated[int | Literal["auto"], BeforeValidator(_steps_or_auto)]
"""Steps between saves; ``auto``: by what saves cost and how often gangs fail."""
