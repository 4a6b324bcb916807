"""Tests that train in their own process leave no process group behind."""

from collections.abc import Iterator

import pytest

from tests.groups import leave_group


@pytest.fixture
def one_process() -> Iterator[None]:
    yield
    leave_group()
