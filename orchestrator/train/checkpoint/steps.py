"""Which checkpoints exist, and which go."""

import re

from orchestrator.storage.store import Store
from orchestrator.train.checkpoint.format import COMMIT, folder

STEP_FOLDER = re.compile(r"step-(\d{8,})")


def committed(store: Store, prefix: str) -> list[int]:
    """Steps with a COMMIT, newest first; that it is valid is found out when it is read."""
    return sorted(
        (step for step, names in _contents(store, prefix).items() if COMMIT in names),
        reverse=True,
    )


def latest(store: Store, prefix: str) -> int | None:
    """The newest step with a COMMIT; None before the first one."""
    steps = committed(store, prefix)
    return steps[0] if steps else None


def prune(store: Store, prefix: str, *, keep: int) -> None:
    """Deletes all but the newest ``keep`` committed checkpoints.

    Folders that were never committed go too if a newer one was. COMMIT goes first, so that a
    checkpoint that is half deleted does not exist.

    Raises:
        ValueError: if ``keep`` is below 1.
    """
    if keep < 1:
        raise ValueError(f"keep={keep}, wanted at least 1")
    contents = _contents(store, prefix)
    kept = sorted((step for step, names in contents.items() if COMMIT in names), reverse=True)
    kept = kept[:keep]
    for step in sorted(contents):
        if kept and step < kept[0] and step not in kept:
            store.delete(f"{folder(prefix, step=step)}/{COMMIT}")
            store.delete_prefix(f"{folder(prefix, step=step)}/")


def _contents(store: Store, prefix: str) -> dict[int, set[str]]:
    contents: dict[int, set[str]] = {}
    for key in store.list(f"{prefix}/"):
        name, _, file = key.removeprefix(f"{prefix}/").partition("/")
        match = STEP_FOLDER.fullmatch(name)
        if match and file:
            contents.setdefault(int(match.group(1)), set()).add(file)
    return contents
