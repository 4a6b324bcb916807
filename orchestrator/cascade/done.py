"""The last file of a stage: from what it was made, and what came of it."""

import hashlib
import json
from typing import Any

from orchestrator.storage.json_files import read_json
from orchestrator.storage.store import Store

REPORT = "report.json"


def read_done(store: Store, *, stage: str) -> dict[str, Any] | None:
    """A finished stage's digests, or None."""
    key = f"stages/{stage}/DONE"
    return read_json(store, key) if store.exists(key) else None


def write_done(store: Store, *, stage: str, inputs: str, output: str, step: int) -> None:
    """Marks a stage as finished; nothing of it is written after this."""
    done = {"input": inputs, "output": output, "step": step}
    store.put(f"stages/{stage}/DONE", json.dumps(done).encode())


def output_digest(store: Store, *, stage: str, events: list[dict[str, Any]]) -> str:
    """Digest of a stage's result: of its weights, of its index, or of its report."""
    for event in reversed(events):
        if event["kind"] == "model":
            return event["sha256"]
        if event["kind"] == "dataset" and event["context"] == "output":
            return event["digest"]
    return hashlib.sha256(store.get(f"stages/{stage}/{REPORT}")).hexdigest()
