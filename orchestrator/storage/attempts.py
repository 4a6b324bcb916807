"""The starts of a run: each has a numbered file in its folder, and the newest owns the run."""

from pathlib import PurePosixPath

from orchestrator.storage.store import Store

ATTEMPTS = "attempts/"


def newest_attempt(store: Store) -> int:
    """Number of a run's newest start; 0 before the first."""
    numbers = [PurePosixPath(key).stem for key in store.list(ATTEMPTS)]
    return max((int(one) for one in numbers if one.isdecimal()), default=0)
