"""What we rely on inside DeepSpeed 0.19.8; after a failure read engine/partitions.py again."""

import pytest

from tests.contract import tasks
from tests.numerics.gang import Gang
from tests.numerics.network import Denoiser, build
from tests.numerics.tasks import Setup

CLASSES = {
    ("fp32", 1): "DeepSpeedZeroOptimizer",
    ("fp32", 2): "DeepSpeedZeroOptimizer",
    ("fp32", 3): "DeepSpeedZeroOptimizer_Stage3",
    ("bf16", 1): "BF16_Optimizer",
    ("bf16", 2): "DeepSpeedZeroOptimizer",
    ("bf16", 3): "DeepSpeedZeroOptimizer_Stage3",
}


@pytest.mark.parametrize(("precision", "stage"), CLASSES)
def test_masters_and_moments_are_where_we_look(single: Gang, precision: str, stage: int) -> None:
    setup = Setup(zero=stage, precision=precision)
    seen = single.run(tasks.private_parts, setup=setup)[0]
    trained = sorted(name for name, p in build(Denoiser).named_parameters() if p.requires_grad)
    assert seen["optimizer"] == CLASSES[precision, stage]
    assert seen["flats"] == 2  # with and without weight decay
    assert seen["keys"] == [["exp_avg", "exp_avg_sq", "step"]] * 2
    assert seen["steps"] == [1.0, 1.0]
    assert seen["step_tensors"] == 2
    assert seen["names"] == trained
    assert seen["padding_is_zero"]
    assert seen["linear_is_untouched"]


@pytest.mark.parametrize("stage", [1, 2])
def test_pushed_masters_reach_the_module(single: Gang, stage: int) -> None:
    seen = single.run(tasks.private_parts, setup=Setup(zero=stage))[0]
    for name, distance in seen["moved"].items():
        wanted = 0.0 if name.startswith("frozen") else 1.0
        assert distance == pytest.approx(wanted, abs=1e-5), name


def test_pushed_masters_reach_the_module_that_stage_3_shards(single: Gang) -> None:
    seen = single.run(tasks.private_parts, setup=Setup(zero=3))[0]
    before = {name: p.detach().mean().item() for name, p in build(Denoiser).named_parameters()}
    for name, mean in seen["moved"].items():
        wanted = 0.0 if name.startswith("frozen") else 1.0
        # One step of 1.5e-3 lies between the two means.
        assert mean - before[name] == pytest.approx(wanted, abs=4e-3), name


def test_start_up_compiles_nothing_and_leaves_mlflow_out(single: Gang) -> None:
    seen = single.run(tasks.start_up, setup=Setup(zero=1))[0]
    assert seen == {"version": "0.19.8", "mlflow": False, "shm": None, "extensions": []}
