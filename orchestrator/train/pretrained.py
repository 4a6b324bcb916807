"""Looking for the pretrained encoders of a recipe, and telling their errors as the user's.

Imports no torch: the command looks before anything heavy is loaded.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.errors import UnavailableError, UserError
from orchestrator.recipe.recipe import Recipe


def find_encoders(recipe: Recipe) -> None:
    """Looks for the pretrained encoders that a recipe names, without loading them.

    Raises:
        UserError: if one is not there or of another family.
        UnavailableError: if only the hub could say and it does not answer.
    """
    if recipe.text.kind == "byt5" and recipe.pair is None:
        return
    # Late: the hub's client is for those who name a pretrained encoder.
    from models.text.hub import find_pair, find_text

    with as_user_errors():
        find_text(recipe.text)
        if recipe.pair is not None:
            find_pair(recipe.pair)


@contextmanager
def as_user_errors() -> Iterator[None]:
    """Turns what ``models.text`` raises into errors with an exit code."""
    try:
        yield
    except ConnectionError as error:
        raise UnavailableError(str(error)) from None
    except ValueError as error:
        raise UserError(str(error)) from None
