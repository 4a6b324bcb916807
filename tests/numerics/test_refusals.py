"""A step above the limit leaves no trace in any engine."""

import pytest

from tests.numerics import refusals
from tests.numerics.gang import Gang
from tests.numerics.tasks import Setup, every_setup

SETUPS = [
    pytest.param(1 if setup.kind == "plain" else 2, setup, id=str(setup))
    for precision in ("fp32", "bf16")
    for setup in every_setup(world_size=1, precision=precision)
]


@pytest.mark.parametrize(("size", "setup"), SETUPS)
def test_step_above_the_limit_is_as_if_its_batch_had_never_been(
    gangs: dict[int, Gang], size: int, setup: Setup
) -> None:
    seen = gangs[size].run(refusals.spiked, setup=setup)
    assert len({rank["norm"] for rank in seen}) == 1
    for rank in seen:
        assert rank["outcome"] == (False, rank["norm"])
        assert rank["untouched"]
        assert rank["rest"]
        assert all(rank["applied"])


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_each_engine_has_a_limit_of_its_own(gangs: dict[int, Gang], stage: int) -> None:
    for seen in gangs[2].run(refusals.two_limits, setup=Setup(zero=stage)):
        assert seen == [False, True, True]
