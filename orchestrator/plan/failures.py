"""What a plan assumes of failures."""

from importlib.resources import files
from math import inf
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from models.config import Strict
from orchestrator.errors import UserError
from orchestrator.recipe.yaml_file import in_one_line, read_tree

_DEFAULTS = "failures.yaml"
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Failures(Strict):
    """Numbers and their sources are in ``failures.yaml``."""

    node_mttf_h: Positive
    detect_s: Seconds
    restart_s: Seconds
    replace_s: Seconds
    copy_gb_s: Positive
    store_gb_s: Positive


def load_failures(extra: Path | None = None, *, mttf_h: float | None = None) -> Failures:
    """The defaults of this package, with a user's numbers in their place.

    Raises:
        UserError: one line with the field, the value seen and the value wanted.
    """
    if mttf_h is not None and not 0.0 < mttf_h < inf:
        raise UserError(f"--mttf {mttf_h:g}: wanted hours above 0, and an end to them")
    path = Path(str(files("orchestrator.plan") / _DEFAULTS))
    tree = read_tree(path, what="failures")
    if extra is not None:
        path = extra
        tree = {**tree, **read_tree(extra, what="failures")}
    if mttf_h is not None:
        tree["node_mttf_h"] = mttf_h
    try:
        return Failures.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: {in_one_line(error, tree)}") from None
