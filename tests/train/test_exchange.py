"""What ranks tell each other."""

from contextlib import closing
from pathlib import Path

import pytest

from tests.numerics.gang import Gang
from tests.train.exchanges import take_from_rank_0


@pytest.mark.slow
def test_arrays_of_rank_0_reach_every_rank(tmp_path: Path) -> None:
    with closing(Gang(world_size=2, folder=tmp_path)) as gang:
        found = gang.run(take_from_rank_0)
    assert found == [[[[0, 1, 2], [3, 4, 5]], [[1, 1]]]] * 2
