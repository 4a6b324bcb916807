"""GPUs: what they hold, how fast they are, what they cost."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from models.config import Strict
from orchestrator.errors import UserError
from orchestrator.recipe.yaml_file import in_one_line, read_tree

GIB = 2**30
DEFAULT = "H100"
_TABLE = "gpus.yaml"
Share = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Gpu(Strict):
    """A row of the table; units are in ``gpus.yaml``."""

    memory: Positive
    tflops: Positive
    tflops_fp32: Positive
    bandwidth: Positive
    link: Positive
    network: Positive
    price: NotNegative
    efficiency: Share
    compiled: Share
    launch_us: NotNegative = 30.0
    reduce_us: NotNegative = 0.0
    gather_us: NotNegative = 30.0
    update_us: NotNegative = 0.0
    fault_us: NotNegative = 0.0
    overlaps: bool = True

    @property
    def memory_bytes(self) -> int:
        """What a process can use."""
        return int(self.memory * GIB)

    def flops_per_s(self, *, bf16: bool, compiled: bool) -> float:
        """What a training step reaches of it."""
        peak = self.tflops if bf16 else self.tflops_fp32
        return peak * 1e12 * (self.compiled if compiled else self.efficiency)


_ROWS = TypeAdapter(dict[str, Gpu])


def load_gpus(extra: Path | None = None) -> dict[str, Gpu]:
    """The table of this package, with a user's rows in it.

    Raises:
        UserError: one line with the field, the value seen and the value wanted.
    """
    table = _rows(Path(str(files("orchestrator.plan") / _TABLE)))
    return table if extra is None else {**table, **_rows(extra)}


def find_gpu(name: str, *, table: dict[str, Gpu]) -> tuple[str, Gpu]:
    """A row, and its name as the table has it, by a name in any case.

    Raises:
        UserError: if there is none.
    """
    for known, gpu in table.items():
        if known.lower() == name.lower():
            return known, gpu
    raise UserError(f"--gpu {name}: not in the table, wanted one of {', '.join(table)}")


def _rows(path: Path) -> dict[str, Gpu]:
    tree = read_tree(path, what="GPU table")
    try:
        return _ROWS.validate_python(tree)
    except ValidationError as error:
        raise UserError(f"{path}: {in_one_line(error, tree)}") from None
