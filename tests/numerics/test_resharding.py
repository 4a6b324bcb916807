"""A checkpoint fits every stage and world size, and continues bitwise where it was made."""

import pytest

from tests.numerics import tasks
from tests.numerics.conftest import WORLD_SIZES
from tests.numerics.gang import Gang
from tests.numerics.runs import SAVE_AT, Runs
from tests.numerics.tasks import CLIPS, Setup, every_setup

EVERYWHERE = [
    pytest.param(size, setup, id=f"{setup}-of-{size}")
    for precision in ("fp32", "bf16")
    for size in WORLD_SIZES
    for setup in every_setup(world_size=size, precision=precision)
]


@pytest.mark.parametrize(("size", "setup"), EVERYWHERE)
def test_state_is_bitwise_that_of_any_other_layout(
    gangs: dict[int, Gang], runs: Runs, size: int, setup: Setup
) -> None:
    saved = {
        runs.uri(other, source): runs.parts(other, source)[0].state
        for other in WORLD_SIZES
        for source in every_setup(world_size=other, precision=setup.precision)
    }
    loaded = gangs[size].run(tasks.load_all, setup=setup, uris=list(saved))[0]
    for uri, state in saved.items():
        assert state["applied_steps"] == str(SAVE_AT)
        assert loaded[uri] == (state, SAVE_AT * CLIPS), uri


@pytest.mark.parametrize(("size", "setup"), EVERYWHERE)
def test_resumed_run_is_bitwise_the_uninterrupted_one(
    gangs: dict[int, Gang], runs: Runs, size: int, setup: Setup
) -> None:
    _, straight = runs.parts(size, setup)
    uri = runs.uri(size, setup)
    resumed = gangs[size].run(tasks.resume, setup=setup, uri=uri)[0]
    assert len(resumed.losses) == 20
    assert resumed.losses == straight.losses
    assert resumed.norms == straight.norms
    assert resumed.state == straight.state
