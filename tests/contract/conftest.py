"""A gang of one rank."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.numerics.gang import Gang


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    """One process with a process group of its own."""
    with closing(Gang(world_size=1, folder=tmp_path_factory.mktemp("group"))) as gang:
        yield gang
