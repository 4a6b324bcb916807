"""What ranks of a gang do in ``test_exchange``."""

import numpy as np

from orchestrator.train.exchange import broadcast_arrays
from orchestrator.train.ranks import Ranks


def take_from_rank_0(ranks: Ranks) -> list[list[object]]:
    """Rank 0 has two arrays, the others none; what each ends with, as lists."""
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((1, 2), dtype=np.float32)]
    taken = broadcast_arrays(arrays if ranks.rank == 0 else [], device=ranks.device)
    return [array.tolist() for array in taken]
