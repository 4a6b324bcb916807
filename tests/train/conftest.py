"""Process groups of tests that train."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.groups import leave_group
from tests.numerics.gang import Gang


@pytest.fixture
def one_process() -> Iterator[None]:
    """Leaves no group behind in this process."""
    yield
    leave_group()


@pytest.fixture(scope="module")
def gang(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    """Four ranks, to share clips in groups."""
    with closing(Gang(world_size=4, folder=tmp_path_factory.mktemp("group"))) as gang:
        yield gang
