"""Whose work lies in a stage's folder: a stage that changes before it is done starts over.

BEGUN holds the digest of what the work in the folder is made from: its version. Work of another
version is put aside: the small files that make it exist (COMMIT, metrics.jsonl, health.json) move
below ``aside/VERSION/``, and come back with the recipe that they belong to. As every checkpoint
without a COMMIT, those put aside are deleted once training has passed their step
(``checkpoint/steps.py``).
"""

import json
from collections.abc import Iterator

from orchestrator.storage.json_files import read_json
from orchestrator.storage.store import Store
from orchestrator.train.checkpoint.format import COMMIT, INDEX, Commit, describe
from orchestrator.train.health import EVIDENCE, STATE

BEGUN = "BEGUN"

_FILES = ("metrics.jsonl", STATE, EVIDENCE)


def claim(store: Store, *, stage: str, inputs: str) -> str | None:
    """Makes a stage's folder that of one version; may be cut off anywhere and repeated.

    Args:
        store: the run's folder.
        stage: a stage that is not done.
        inputs: digest of what it is made from now.

    Returns:
        A line for the user if work of another version was put aside.
    """
    folder = f"stages/{stage}"
    seen = _begun(store, folder)
    said = None
    if seen not in (None, inputs):
        said = _put_aside(store, folder, version=str(seen))
    if seen != inputs:
        store.put(f"{folder}/{BEGUN}", json.dumps({"input": inputs}).encode())
    _take_back(store, folder, version=inputs)
    return said


def _begun(store: Store, folder: str) -> str | None:
    """None before the first start, and for what was trained without a driver (torchrun)."""
    key = f"{folder}/{BEGUN}"
    return read_json(store, key)["input"] if store.exists(key) else None


def _put_aside(store: Store, folder: str, *, version: str) -> str | None:
    moved = list(_small(store, folder))
    for key in moved:
        store.put(f"{_aside(folder, version)}/{key}", store.get(f"{folder}/{key}"))
        store.delete(f"{folder}/{key}")
    has_latents = bool(store.list(f"{folder}/latents/"))
    if has_latents:
        store.delete_prefix(f"{folder}/latents/")
    commits = [key for key in moved if key.endswith(f"/{COMMIT}")]
    if commits:
        step = int(commits[-1].split("/")[-2].rpartition("-")[2])
        return (
            f"changed since its last start: its checkpoints up to step {step} are put aside and it "
            "starts from step 0; the earlier recipe takes them up again"
        )
    return "changed since its last start: it starts over" if moved or has_latents else None


def _take_back(store: Store, folder: str, *, version: str) -> None:
    aside = _aside(folder, version)
    for key in _small(store, aside):
        raw = store.get(f"{aside}/{key}")
        if not key.endswith(f"/{COMMIT}") or _is_whole(store, f"{folder}/{key}", raw_commit=raw):
            store.put(f"{folder}/{key}", raw)
        store.delete(f"{aside}/{key}")


def _is_whole(store: Store, commit: str, *, raw_commit: bytes) -> bool:
    """False if the checkpoint is gone or another version's has taken its place.

    Every hash is checked when it is loaded.
    """
    index = commit.removesuffix(COMMIT) + INDEX
    if not store.exists(index):
        return False
    try:
        wanted = Commit.parse(raw_commit).files.get(INDEX)
    except ValueError:
        return False
    return wanted == describe(store.get(index))


def _small(store: Store, folder: str) -> Iterator[str]:
    """Keys below ``folder`` of the files without which work does not exist."""
    for key in store.list(f"{folder}/checkpoints/"):
        if key.endswith(f"/{COMMIT}"):
            yield key.removeprefix(f"{folder}/")
    yield from (file for file in _FILES if store.exists(f"{folder}/{file}"))


def _aside(folder: str, version: str) -> str:
    return f"{folder}/aside/{version[:16]}"
