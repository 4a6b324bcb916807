"""Field types that several parts of a recipe share."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from orchestrator.redact import holds_secret, redact

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=80)]
"""A name that is safe in a path, an object key and an MLflow tag."""

Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
"""Height and width in pixels."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A probability or a part of a whole."""


def _without_secret(uri: str) -> str:
    if holds_secret(uri):
        raise ValueError(
            f"seen {redact(uri)}, wanted it without a password or token: those belong into the "
            "environment (AWS_ACCESS_KEY_ID, MLFLOW_TRACKING_PASSWORD)"
        )
    return uri


Uri = Annotated[str, AfterValidator(_without_secret)]
"""A place. Recipes are stored and shown, so what opens it is not in its name."""


def _steps_or_auto(value: object) -> object:
    if value == "auto" or (type(value) is int and value > 0):
        return value
    raise ValueError(f"seen {value}, wanted a number of steps from 1 on, or auto")


EverySteps = Annotated[int | Literal["auto"], BeforeValidator(_steps_or_auto)]
"""Steps between saves; ``auto``: by what saves cost and how often gangs fail."""
