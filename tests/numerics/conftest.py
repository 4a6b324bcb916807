"""Gangs of one to four ranks, shared by the tests of a session."""

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.numerics.gang import Gang
from tests.numerics.runs import Runs

WORLD_SIZES = (1, 2, 3, 4)


@pytest.fixture(scope="session")
def gangs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Gang]]:
    """One gang per world size."""
    folder = tmp_path_factory.mktemp("groups")
    with ExitStack() as stack:
        yield {
            size: stack.enter_context(closing(Gang(world_size=size, folder=folder)))
            for size in WORLD_SIZES
        }


@pytest.fixture(scope="session")
def runs(gangs: dict[int, Gang], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Trainings by world size and setup."""
    return Runs(gangs, folder=tmp_path_factory.mktemp("runs"))
