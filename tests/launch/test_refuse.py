"""`rushes train` refuses what cannot fit, by the GPUs that really are there."""

import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.errors import UserError
from orchestrator.launch.gpus_seen import SeenGpu, gpus_here
from orchestrator.launch.refuse import refuse_unfit
from orchestrator.launch.train import train
from orchestrator.recipe.load import load_recipe, parse_recipe
from orchestrator.storage.attempts import newest_attempt
from orchestrator.storage.store import open_store
from tests.tiny import tiny_tree

DEBUG = Path(__file__).parents[2] / "jobs" / "sora_debug.yaml"
HUGE = ("stages.dit.train.batch=32768", "stages.dit.train.micro_batch=16384")
ON_GPU = (*HUGE, "stages.dit.compute.gpus_per_worker=1")
L40S = SeenGpu(name="NVIDIA L40S", memory_bytes=46_068 << 20)
B200 = SeenGpu(name="NVIDIA B200", memory_bytes=183_359 << 20)


def refuse(
    *overrides: str, gpus: Sequence[SeenGpu] = (L40S,), done: Sequence[str] = ()
) -> str | None:
    recipe = load_recipe(DEBUG, overrides=overrides)
    return refuse_unfit(recipe, done=lambda stage: stage in done, gpus=lambda: gpus)


def never() -> Sequence[SeenGpu]:
    raise AssertionError("asked for GPUs")


def test_a_stage_that_cannot_fit_is_refused_with_what_would() -> None:
    with pytest.raises(UserError) as refused:
        refuse(*ON_GPU)
    line = str(refused.value)
    assert "stages.dit with ZeRO 1, 1 x 16384 needs" in line
    assert "NVIDIA L40S has 44" in line
    assert "nearest that fits" in line


def test_the_largest_gpu_counts() -> None:
    assert refuse(*ON_GPU, "stages.dit.train.micro_batch=4096", gpus=(L40S, B200)) is None


def test_without_gpus_nothing_is_asked_or_measured() -> None:
    recipe = load_recipe(DEBUG, overrides=HUGE)
    assert refuse_unfit(recipe, done=lambda _: False, gpus=never) is None


def test_a_stage_that_is_done_is_not_refused() -> None:
    assert refuse(*ON_GPU, gpus=(), done=("dit",)) is None


def test_gpus_that_do_not_answer_are_said_to_be_unknown() -> None:
    assert refuse(*ON_GPU, gpus=()) == "whether stages fit is not known: no GPU has answered"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a driver's program goes: this machine has one GPU, of a kind that it names."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    path = tmp_path / "nvidia-smi"
    path.write_text("#!/bin/sh\necho 'NVIDIA L40S, 46068'\necho 'NVIDIA X, [N/A]'\n")
    path.chmod(0o755)
    return path


def test_the_driver_says_what_this_machine_has(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gpus_here() == [L40S]
    driver.unlink()
    monkeypatch.setenv("PATH", str(driver.parent))
    assert gpus_here() == []


@pytest.mark.usefixtures("driver")
def test_train_refuses_before_a_start_is_on_record(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path, workers=2)
    tree["stages"] = tree["stages"][:1]
    tree["stages"][0]["train"] |= {"batch": 1 << 21, "micro_batch": 1 << 20}
    tree["stages"][0]["compute"]["gpus_per_worker"] = 1
    run = str(tmp_path / "run")
    with pytest.raises(UserError, match=r"stages\.autoencoder with ZeRO 1, 1 x 1048576 needs"):
        train(
            parse_recipe(tree, origin="tiny"), run=run, local=True, console=Console(file=StringIO())
        )
    assert newest_attempt(open_store(run)) == 0
