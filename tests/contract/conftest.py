"""Gangs of one rank and of two."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.numerics.gang import Gang


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    """One process with a process group of its own."""
    with closing(Gang(world_size=1, folder=tmp_path_factory.mktemp("group"))) as gang:
        yield gang


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    """Two processes of one process group."""
    with closing(Gang(world_size=2, folder=tmp_path_factory.mktemp("group"))) as gang:
        yield gang
