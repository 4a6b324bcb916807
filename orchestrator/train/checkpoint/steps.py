"""Which checkpoints exist, and which go."""

import re
from collections.abc import Collection, Mapping

from orchestrator.recipe.train import KeepBest, Save
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.store import Store
from orchestrator.train.checkpoint.format import COMMIT, DATA_SUFFIX, INDEX, Commit, Index, folder

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


def newest_healthy(store: Store, prefix: str, *, until: int, known: dict[int, bool]) -> int | None:
    """The newest step that training could go back to; None before the first one.

    Args:
        store: where the run is.
        prefix: key of the folder of checkpoints.
        until: the last step that may be.
        known: whether checkpoints are healthy, by step; those that are missing are read and added.
    """
    for step in committed(store, prefix):
        if step <= until:
            if step not in known:
                known[step] = _is_healthy(store, prefix, step=step)
            if known[step]:
                return step
    return None


def _is_healthy(store: Store, prefix: str, *, step: int) -> bool:
    try:
        index = Index.model_validate_json(store.get(f"{folder(prefix, step=step)}/{INDEX}"))
    except (NotFoundError, ValueError):
        return False  # damaged, and found out when it is read
    return bool(index.extra.get("healthy", True))


def prune(
    store: Store,
    prefix: str,
    *,
    save: Save,
    known: dict[int, Mapping[str, float]] | None = None,
    spare: int | None = None,
) -> None:
    """Deletes the committed checkpoints that no rule keeps; never the newest, nor ``spare``.

    Folders that were never committed go too if a newer one was. COMMIT goes first, so that a
    checkpoint that is half deleted does not exist.

    Args:
        store: where the run is.
        prefix: key of the folder of checkpoints.
        save: the rules.
        known: what COMMITs say of metrics, by step; those that are missing are read and added.
        spare: a step that is kept besides.
    """
    contents = _contents(store, prefix)
    steps = sorted((step for step, names in contents.items() if COMMIT in names), reverse=True)
    if not steps:
        return
    kept = {*steps[: save.keep], spare}
    if save.keep_every_steps is not None:
        kept |= {step for step in steps if step % save.keep_every_steps == 0}
    if save.keep_best is not None:
        metrics = {} if known is None else known
        for step in steps:
            if step not in metrics:
                metrics[step] = _metrics(store, prefix, step=step)
        kept |= set(_best({step: metrics[step] for step in steps}, rule=save.keep_best))
    for step in sorted(contents):
        if step < steps[0] and step not in kept:
            store.delete(f"{folder(prefix, step=step)}/{COMMIT}")
            store.delete_prefix(f"{folder(prefix, step=step)}/")


def drop_strays(store: Store, target: str, *, named: Collection[str]) -> None:
    """Deletes data files that a committed checkpoint does not name: of a writer that was lost."""
    for key in store.list(f"{target}/"):
        name = key.removeprefix(f"{target}/")
        if name.endswith(DATA_SUFFIX) and name not in named:
            store.delete(key)


def _metrics(store: Store, prefix: str, *, step: int) -> Mapping[str, float]:
    try:
        raw = store.get(f"{folder(prefix, step=step)}/{COMMIT}")
        return Commit.parse(raw).metrics
    except (NotFoundError, ValueError):
        return {}  # damaged, and found out when it is read


def _best(metrics: Mapping[int, Mapping[str, float]], *, rule: KeepBest) -> list[int]:
    """The best of them, newest first; of two that are as good the newer one."""
    values = {step: one[rule.metric] for step, one in metrics.items() if rule.metric in one}
    return sorted(values, key=values.__getitem__, reverse=rule.largest)[: rule.count]


def _contents(store: Store, prefix: str) -> dict[int, set[str]]:
    contents: dict[int, set[str]] = {}
    for key in store.list(f"{prefix}/"):
        name, _, file = key.removeprefix(f"{prefix}/").partition("/")
        match = STEP_FOLDER.fullmatch(name)
        if match and file:
            contents.setdefault(int(match.group(1)), set()).add(file)
    return contents
