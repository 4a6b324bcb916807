"""What an evaluation leaves behind: a report, metrics and pictures."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from orchestrator.errors import StoppedError
from orchestrator.storage.store import Store, join_uri
from orchestrator.train.hooks import Hooks
from orchestrator.train.job import StageJob
from orchestrator.train.sheets import sheet

REPORT = "report.json"
COUNT = "prompts"  # of the report: how many prompts or clips it is about

Report = dict[str, float]


def publish_report(job: StageJob, store: Store, hooks: Hooks, report: Mapping[str, float]) -> None:
    """Writes report.json and tells of its numbers."""
    store.put(f"{job.folder}/{REPORT}", json.dumps(report, indent=1).encode())
    values = {name: value for name, value in report.items() if name != COUNT}
    hooks.event({"kind": "metrics", "stage": job.stage, "step": 0, "values": values})
    _tell(job, hooks, REPORT)


def publish_clips(
    job: StageJob,
    store: Store,
    hooks: Hooks,
    clips: Sequence[np.ndarray],
    *,
    captions: Sequence[str],
    fps: float,
    columns: int | None = None,
) -> None:
    """Writes a sheet of clips as samples.mp4, samples.gif and samples.png.

    Args:
        job: the evaluate stage.
        store: the run's folder.
        hooks: told where the pictures are.
        clips: uint8 [T, H, W, 3], of one size.
        captions: one per clip.
        fps: frames per second.
        columns: clips beside each other.
    """
    shown = sheet(list(clips), captions=captions, fps=fps, columns=columns)
    for kind, content in shown.items():
        store.put(f"{job.folder}/samples.{kind}", content)
    for kind in ("gif", "mp4"):
        _tell(job, hooks, f"samples.{kind}")


def say_progress(job: StageJob, hooks: Hooks, *, done: int, of: int) -> None:
    """Tells how far an evaluation has come.

    Raises:
        StoppedError: if it was asked to stop and is not nearly through.
    """
    hooks.event({"kind": "progress", "stage": job.stage, "step": done, "steps": of})
    if done < of and hooks.should_stop():
        raise StoppedError(f"stage {job.stage}: stopped after {done} of {of}")


def _tell(job: StageJob, hooks: Hooks, name: str) -> None:
    uri = join_uri(job.run, job.folder, name)
    hooks.event({"kind": "artifact", "stage": job.stage, "uri": uri, "folder": "evaluation"})
