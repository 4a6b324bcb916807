"""DeepSpeed's own checkpoints: whole parameters and moments out of any of its layouts.

They are pickles, which run what they say when they are opened: only those of one's own making,
or of someone trusted, are to be read.
"""

import argparse
import contextlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import UserError
from orchestrator.train.engine.base import StateKey
from orchestrator.train.engine.library import load_deepspeed

LATEST = "latest"  # names the newest tag, beside the folders of tags
_PARAMETERS = "zero"  # of the universal format: a folder per parameter
_FILES: dict[StateKey, str] = {
    "fp32": "fp32.pt",
    "exp_avg": "exp_avg.pt",
    "exp_avg_sq": "exp_avg_sq.pt",
    "ema": "fp32.pt",  # DeepSpeed keeps none: it starts from the masters, as in a fresh run
}
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class StockState:
    """A stock checkpoint in DeepSpeed's universal format, as an engine reads it.

    Attributes:
        folder: of the universal format.
        step: optimizer steps, skipped ones too.
        applied_steps: those that changed the weights (AdamW's count).
    """

    folder: Path
    step: int
    applied_steps: int

    def check(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Raises UserError unless it has every parameter of a network, in its shape."""
        for name, shape in sorted(shapes.items()):
            if not self._file("fp32", name).exists():
                raise UserError(f"{self.folder}: no parameter {name}, wanted one of {list(shape)}")
            seen = self._whole("fp32", name)
            # Stage 3 writes flat ones.
            if tuple(seen.shape) not in (shape, (math.prod(shape),)):
                raise UserError(
                    f"{self.folder}: {name} has shape {list(seen.shape)}, wanted {list(shape)}"
                )

    def read(self, key: StateKey, *, name: str, start: int, numel: int) -> Tensor:
        """See ``StateReader``; moments that were never written are zeros."""
        if key in _MOMENTS and not self._file(key, name).exists():
            return torch.zeros(numel)
        return self._whole(key, name).reshape(-1)[start : start + numel].float()

    def _file(self, key: StateKey, name: str) -> Path:
        return self.folder / _PARAMETERS / name / _FILES[key]

    def _whole(self, key: StateKey, name: str) -> Tensor:
        # Stages 1 and 2 wrap what stage 3 writes bare.
        found = torch.load(self._file(key, name), map_location="cpu", mmap=True, weights_only=True)
        return (found["param"] if isinstance(found, dict) else found).detach()


def read_stock(folder: Path, *, tag: str | None, scratch: Path) -> StockState:
    """Reads what ``engine.save_checkpoint`` wrote, at ZeRO 1, 2 or 3, or its universal form.

    Args:
        folder: that was given to DeepSpeed, or one of its tags.
        tag: of the checkpoint; default: the newest one.
        scratch: a new folder with room for the whole state in float32.

    Raises:
        UserError: if there is no such checkpoint.
    """
    source = _tagged(folder, tag=tag)
    if not (source / _PARAMETERS).is_dir():
        source = _converted(source, target=scratch / source.name)
    state = _model_state(source)
    step = int(state["global_steps"])
    applied = _adamw_step(source)
    return StockState(
        folder=source,
        step=step,
        applied_steps=step - int(state["skipped_steps"]) if applied is None else applied,
    )


def _tagged(folder: Path, *, tag: str | None) -> Path:
    latest = folder / LATEST
    if tag is None and latest.is_file():
        tag = latest.read_text().strip()
    source = folder if tag is None else folder / tag
    if (source / _PARAMETERS).is_dir() or list(source.glob("*_optim_states.pt")):
        return source
    raise UserError(
        f"{source}: no *_optim_states.pt and no {_PARAMETERS}/ there, wanted a checkpoint of "
        "DeepSpeed's ZeRO stages 1 to 3"
    )


def _converted(source: Path, *, target: Path) -> Path:
    load_deepspeed(torch.device("cpu"))
    from deepspeed.checkpoint.ds_to_universal import main

    options = argparse.Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,  # in this process
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    target.mkdir(parents=True)
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        main(options)
    return target


def _model_state(source: Path) -> dict[str, Any]:
    files = sorted(source.glob("*model_states.pt"))
    if not files:
        raise UserError(f"{source}: no *model_states.pt there, wanted DeepSpeed's step count")
    # Holds the optimizer's and the caller's objects too, which only a pickle can.
    return torch.load(files[0], map_location="cpu", mmap=True, weights_only=False)


def _adamw_step(source: Path) -> int | None:
    """AdamW's count, where the optimizer is one that keeps it."""
    for file in sorted((source / _PARAMETERS).glob("**/step.pt")):  # stages 1 and 2
        return int(torch.load(file, map_location="cpu", weights_only=True))
    file = source / _PARAMETERS / "optimizer_state.pt"
    if not file.exists():
        return None
    found = torch.load(file, map_location="cpu", mmap=True, weights_only=False)
    for one in found.get("optimizer_state_dict", {}).get("state", {}).values():  # stage 3
        if "step" in one:
            return int(one["step"])
    return None
