"""Every ZeRO stage at every world size is the same training.

Tolerances: the same clips are summed in another order when the batch is split over other ranks or
the optimizer's state is cut elsewhere. In float32 that is a rounding of 6e-8 here and there; eight
steps were seen to stay within 2.2e-7, and 2e-6 leaves room for other kernels. bf16 keeps 8 bits, so
one rounding is up to 4e-3 of a value; losses, which average many, were seen within 1.1e-3 and
norms within 3e-3.
"""

import pytest
import torch

from tests.numerics import tasks, written_out
from tests.numerics.conftest import WORLD_SIZES
from tests.numerics.gang import Gang
from tests.numerics.runs import Runs
from tests.numerics.tasks import SHORT, STEPS, Setup, every_setup

LOSS_TOLERANCE = {"fp32": 2e-6, "bf16": 5e-3}
NORM_TOLERANCE = {"fp32": 2e-6, "bf16": 1e-2}
PRECISIONS = ("fp32", "bf16")
STAGES = (0, 1, 2, 3)
EVERYWHERE = [
    pytest.param(size, setup, id=f"{setup}-of-{size}")
    for precision in PRECISIONS
    for size in WORLD_SIZES
    for setup in every_setup(world_size=size, precision=precision)
]
WHOLE_AND_SHARDED = [
    pytest.param(1 if setup.kind == "plain" else 2, setup, id=str(setup))
    for precision in PRECISIONS
    for setup in every_setup(world_size=1, precision=precision)
]

Gangs = dict[int, Gang]


def plain(precision: str) -> Setup:
    return Setup(kind="plain", precision=precision)


def test_plain_engine_equals_adamw_written_out(runs: Runs) -> None:
    losses, norms, _ = written_out.train(steps=STEPS)
    assert runs.losses(1, plain("fp32")) == pytest.approx(losses, rel=2e-6)
    assert runs.norms(1, plain("fp32")) == pytest.approx(norms, rel=2e-6)


@pytest.mark.parametrize(("size", "setup"), EVERYWHERE)
def test_loss_curve_is_the_plain_one(runs: Runs, size: int, setup: Setup) -> None:
    expected = plain(setup.precision)
    losses, norms = runs.losses(1, expected), runs.norms(1, expected)
    assert len(losses) == STEPS
    tolerance = LOSS_TOLERANCE[setup.precision]
    assert runs.losses(size, setup) == pytest.approx(losses, rel=tolerance)
    assert runs.norms(size, setup) == pytest.approx(norms, rel=NORM_TOLERANCE[setup.precision])


@pytest.mark.parametrize("stage", STAGES)
def test_average_is_that_of_the_gathered_weights(gangs: Gangs, stage: int) -> None:
    ema, expected = gangs[3].run(tasks.average_beside, setup=Setup(zero=stage))[0]
    _, _, written = written_out.train(steps=SHORT)
    assert ema.keys() == expected.keys() == written.keys()
    for name, tensor in expected.items():
        # One fused multiply-add may round otherwise where a slice ends inside a vector register.
        torch.testing.assert_close(ema[name], tensor, rtol=1.2e-7, atol=1e-9)
        # Weights are about 0.1 and take eight steps of 3e-3, each with a rounding of its own.
        torch.testing.assert_close(tensor.double(), written[name], rtol=0, atol=5e-6)


@pytest.mark.parametrize(("size", "setup"), WHOLE_AND_SHARDED)
def test_weights_are_swapped_for_the_average_and_back(
    gangs: Gangs, runs: Runs, size: int, setup: Setup
) -> None:
    seen = gangs[size].run(tasks.peek_at_average, setup=setup)
    for rank in seen:
        assert not torch.equal(rank["trained"], rank["averaged"])
        assert torch.equal(rank["averaged"], seen[0]["expected"])
        assert torch.equal(rank["averaged"], rank["again"])
        assert torch.equal(rank["trained"], rank["back"])
        assert rank["unchanged"]
    assert seen[0]["losses"] == runs.losses(size, setup)[:SHORT]


@pytest.mark.parametrize(("size", "setup"), WHOLE_AND_SHARDED)
def test_step_with_a_gradient_that_is_not_finite_is_skipped(
    gangs: Gangs, size: int, setup: Setup
) -> None:
    for rank in gangs[size].run(tasks.poisoned, setup=setup):
        assert rank["applied"] == [step != 2 for step in range(SHORT)]
        assert not torch.tensor(rank["norm"]).isfinite()
        assert rank["untouched"]
        assert rank["applied_steps"] == SHORT - 1
        assert all(torch.tensor(rank["losses"]).isfinite())


@pytest.mark.parametrize("stage", STAGES)
def test_two_engines_train_side_by_side(gangs: Gangs, stage: int) -> None:
    expected = gangs[1].run(tasks.adversarial, setup=plain("fp32"))[0]
    seen = gangs[2].run(tasks.adversarial, setup=Setup(zero=stage))[0]
    for ours, theirs in zip(seen, expected, strict=True):
        # The kinks of the hinge and the critic's small gradients, divided by AdamW by their own
        # size, enlarge roundings: 2.4e-6 was seen. A gradient gone astray shows as 1e-2.
        assert ours == pytest.approx(theirs, rel=5e-5)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_parameter_that_rests_has_no_gradient(gangs: Gangs, stage: int) -> None:
    # Which clips use the branch depends on the world size, so the reference has the same.
    expected = gangs[2].run(tasks.branching, setup=Setup(zero=0))[0]
    seen = gangs[2].run(tasks.branching, setup=Setup(zero=stage))[0]
    assert seen == pytest.approx(expected, rel=LOSS_TOLERANCE["fp32"])


@pytest.mark.parametrize("stage", STAGES)
def test_ranks_own_every_trainable_element_once(gangs: Gangs, stage: int) -> None:
    slices = [
        one for rank in gangs[3].run(tasks.ownership, setup=Setup(zero=stage)) for one in rank
    ]
    names = {name for name, *_ in slices}
    assert not any(name.startswith("frozen") for name in names)
    for name in names:
        own = sorted(one for one in slices if one[0] == name)
        end = 0
        for _, _, start, numel in own:
            assert start == end
            end += numel
        assert end == torch.Size(own[0][1]).numel()


@pytest.mark.parametrize("setup", [plain("fp32"), Setup(zero=3)], ids=str)
def test_recomputing_activations_changes_nothing(gangs: Gangs, runs: Runs, setup: Setup) -> None:
    seen = gangs[1].run(tasks.run, setup=Setup(**{**vars(setup), "checkpointing": True}))[0]
    assert seen.losses == runs.losses(1, setup)
    assert seen.state == runs.parts(1, setup)[1].state


@pytest.mark.slow
def test_compiled_blocks_train_the_same(gangs: Gangs, runs: Runs) -> None:
    setup = Setup(zero=1)
    seen = gangs[1].run(tasks.run, setup=Setup(zero=1, compile=True))[0]
    # The compiler fuses and reorders float32 sums.
    assert seen.losses == pytest.approx(runs.losses(1, setup), rel=1e-4)
    assert seen.state.keys() == runs.parts(1, setup)[1].state.keys()
