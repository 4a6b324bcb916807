"""Field types that several parts of a recipe share."""

from typing import Annotated

from pydantic import Field

Slug = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=80)]
"""A name that is safe in a path, an object key and an MLflow tag."""

Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]
"""Height and width in pixels."""

Share = Annotated[float, Field(ge=0.0, le=1.0)]
"""A probability or a part of a whole."""
