"""Importing DeepSpeed and starting one of its engines, quickly and quietly."""

import contextlib
import gc
import io
import logging
import os
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

LOGGER = "DeepSpeed"
# DeepSpeed 0.19 calls them by the names that they had before torch 2.13.
RENAMED_COLLECTIVES = ("all_gather_into_tensor", "reduce_scatter_tensor")


def load_deepspeed(device: torch.device) -> Any:
    """Imports DeepSpeed for one kind of device; without mlflow, extensions or log lines.

    ``deepspeed.autotuning`` imports mlflow at its top, which takes ten seconds and serves nothing
    here, so mlflow is hidden while the import runs. On the CPU DeepSpeed would compile a
    shared-memory collective at start-up; gloo does its work.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))  # it insists on the variable
    logging.getLogger(LOGGER).setLevel(logging.ERROR)
    hides_mlflow = "deepspeed" not in sys.modules and "mlflow" not in sys.modules
    if hides_mlflow:
        sys.modules["mlflow"] = None  # pyright: ignore[reportArgumentType]
    try:
        with _silence():
            import deepspeed
            from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
    finally:
        if hides_mlflow:
            del sys.modules["mlflow"]
    logging.getLogger(LOGGER).setLevel(logging.ERROR)
    for name in RENAMED_COLLECTIVES:
        warnings.filterwarnings(
            "ignore", message=f".torch.distributed.{name}. is deprecated", category=FutureWarning
        )
    compatible: dict[str, bool] = deepspeed.ops.__compatible_ops__
    compatible[ShareMemCommBuilder.NAME] = False
    return deepspeed


def start_engine(
    module: nn.Module,
    *,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
    device: torch.device,
) -> Any:
    """A DeepSpeedEngine on ``device``; torch.distributed must be initialised."""
    deepspeed = load_deepspeed(device)
    # The launcher may have hidden the other devices, so LOCAL_RANK need not be the index.
    args = types.SimpleNamespace(device_rank=device.index or 0)
    with _silence(), _little_garbage():
        engine, *_ = deepspeed.initialize(
            args=args, model=module, optimizer=optimizer, config=config
        )
    return engine


def save_stock(engine: Any, folder: Path, *, step: int, applied_steps: int) -> None:
    """``engine.save_checkpoint`` of a state that was not reached by its own steps; collective."""
    engine.global_steps = step
    engine.global_samples = step * engine.train_batch_size()
    engine.micro_steps = step * engine.gradient_accumulation_steps()
    engine.skipped_steps = step - applied_steps
    with _silence():
        engine.save_checkpoint(str(folder), tag=f"global_step{step}")


@contextlib.contextmanager
def _little_garbage() -> Any:
    """DeepSpeed collects garbage up to six times: each took 0.3 s over all that is imported."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _silence() -> Any:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
