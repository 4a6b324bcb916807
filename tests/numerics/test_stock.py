"""Checkpoints of DeepSpeed itself are taken over bitwise, and ours by DeepSpeed."""

import argparse
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.errors import UserError
from orchestrator.train.engine.library import load_deepspeed
from orchestrator.train.engine.stock import read_stock
from tests.numerics import tasks
from tests.numerics.gang import Gang
from tests.numerics.runs import SAVE_AT, Runs
from tests.numerics.tasks import SHORT, Result, Setup

STAGES = [
    pytest.param(Setup(zero=zero, precision=precision), id=f"zero{zero}-{precision}")
    for zero in (1, 2, 3)
    for precision in ("fp32", "bf16")
]


def without_average(state: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in state.items() if not name.endswith("/ema")}


@pytest.fixture(scope="module")
def trained(
    gangs: dict[int, Gang], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Setup], tuple[Path, Result, Result]]:
    """Trains, once per setup, with a checkpoint of DeepSpeed's own; its folder, and the parts."""

    @cache
    def train(setup: Setup) -> tuple[Path, Result, Result]:
        folder = tmp_path_factory.mktemp("stock")
        task = tasks.run_and_save_stock
        return folder, *gangs[2].run(task, setup=setup, folder=str(folder), save_at=SAVE_AT)[0]

    return train


@pytest.mark.parametrize("setup", STAGES)
@pytest.mark.parametrize("universal", [False, True], ids=["stock", "universal"])
def test_deepspeeds_checkpoint_goes_on_bitwise(
    gangs: dict[int, Gang], trained: Any, tmp_path: Path, setup: Setup, universal: bool
) -> None:
    made, first, straight = trained(setup)
    folder = str(shutil.copytree(made, tmp_path / "stock"))
    if universal:
        folder = converted(tmp_path / "stock" / f"global_step{SAVE_AT}")
    step, loaded, resumed = gangs[2].run(
        tasks.resume_stock, setup=setup, folder=folder, scratch=str(tmp_path / "scratch")
    )[0]
    assert step == SAVE_AT
    assert without_average(loaded) == without_average(first.state)
    masters = {name.replace("/fp32", "/ema"): value for name, value in loaded.items()}
    assert all(value == masters[name] for name, value in loaded.items() if name.endswith("/ema"))
    assert len(resumed.losses) == SHORT - SAVE_AT
    assert resumed.losses == straight.losses
    # At another world size, in another engine: the same state.
    alone = gangs[1].run(
        tasks.state_of_stock,
        setup=Setup(kind="plain", precision=setup.precision),
        folder=folder,
        scratch=str(tmp_path / "alone"),
    )[0]
    assert alone == loaded


def converted(folder: Path) -> str:
    """DeepSpeed's own conversion, by its own code."""
    load_deepspeed(torch.device("cpu"))
    from deepspeed.checkpoint.ds_to_universal import main

    target = folder.with_name("universal")
    main(
        argparse.Namespace(
            input_folder=str(folder),
            output_folder=str(target),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
    )
    return str(target)


@pytest.mark.parametrize("setup", STAGES)
def test_deepspeed_goes_on_from_an_exported_checkpoint(
    gangs: dict[int, Gang], runs: Runs, tmp_path: Path, setup: Setup
) -> None:
    saved, straight = runs.parts(1, setup)
    folder = str(tmp_path / "stock")
    gangs[1].run(
        tasks.export_stock, setup=setup, uri=runs.uri(1, setup), folder=folder, step=SAVE_AT
    )
    resumed = gangs[1].run(tasks.resume_in_deepspeed, setup=setup, folder=folder, start=SAVE_AT)[0]
    assert len(resumed.losses) == SHORT - SAVE_AT
    assert resumed.losses == straight.losses[: len(resumed.losses)]
    again = gangs[1].run(
        tasks.state_of_stock, setup=setup, folder=folder, scratch=str(tmp_path / "scratch")
    )[0]
    assert without_average(again) == without_average(saved.state)


def test_what_is_no_checkpoint_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="wanted a checkpoint of DeepSpeed's ZeRO"):
        read_stock(tmp_path, tag="global_step3", scratch=tmp_path / "scratch")
