"""What a plan assumes of failures."""

from importlib.resources import files
from pathlib import Path

from pydantic import NonNegativeFloat, PositiveFloat, ValidationError

from models.config import Strict
from orchestrator.errors import UserError
from orchestrator.recipe.yaml_file import in_one_line, read_tree

_DEFAULTS = "failures.yaml"


class Failures(Strict):
    """Numbers and their sources are in ``failures.yaml``."""

    node_mttf_h: PositiveFloat
    detect_s: NonNegativeFloat
    restart_s: NonNegativeFloat
    replace_s: NonNegativeFloat
    copy_gb_s: PositiveFloat
    store_gb_s: PositiveFloat


def load_failures(extra: Path | None = None, *, mttf_h: float | None = None) -> Failures:
    """The defaults of this package, with a user's numbers in their place.

    Raises:
        UserError: one line with the field, the value seen and the value wanted.
    """
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
