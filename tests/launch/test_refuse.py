"""`rushes train` refuses what cannot fit, by the GPUs that really are there."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.launch.gpus_seen import SeenGpu, gpus_here
from orchestrator.launch.refuse import refuse_unfit
from orchestrator.recipe.load import load_recipe

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


def test_the_driver_says_what_this_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus_here() == []
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 'NVIDIA L40S, 46068'\necho 'NVIDIA X, [N/A]'\n")
    driver.chmod(0o755)
    assert gpus_here() == [L40S]
