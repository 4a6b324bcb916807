"""A run of one small stage that tests break: started by the real command, judged by its storage."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator.launch.audit import audit_run
from orchestrator.storage.store import Store
from orchestrator.train.checkpoint.steps import committed
from tests.tiny import tiny_tree

ROOT = Path(__file__).parents[2]
STAGE = "autoencoder"
CHECKPOINTS = f"stages/{STAGE}/checkpoints"
STEPS, SAVE_EVERY = 24, 2
LIMIT_S = 500.0
BEHIND = "MLflow has not taken everything yet"
_JUDGED = ("loss", "grad_norm", "lr", "skipped_steps")  # the rest are times and sizes


@dataclass(frozen=True)
class Place:
    """Where a run is and how its processes find that.

    Attributes:
        folder: the recipe, and what this machine keeps of the run.
        runs: URI of the folder that the run's is made in.
        env: of its processes, over the test's own.
        tracking: where MLflow keeps it.
        inside: of what command its own is run.
    """

    folder: Path
    runs: str
    env: dict[str, str] = field(default_factory=dict[str, str])
    tracking: str = ""
    inside: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        """The run's folder."""
        return f"{self.runs}/tiny"

    @property
    def tracking_uri(self) -> str:
        """A file of its own unless it was given another."""
        return self.tracking or f"sqlite:///{self.folder}/mlflow.db"

    def write_recipe(self, *, clips: str, workers: int = 0, save_every: int = SAVE_EVERY) -> Path:
        """The same training everywhere: an autoencoder with its critic."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tree = tiny_tree(self.folder, workers=workers)
        tree |= {"runs": self.runs, "tracking": {"uri": self.tracking_uri}}
        for name in ("train", "eval"):
            tree["data"][name]["uri"] = f"{clips}/{name}"
        tree["data"] |= {"cache_dir": str(self.folder / "clips-cache"), "audit": True}
        stage = next(one for one in tree["stages"] if one["id"] == STAGE)
        stage["train"]["steps"] = STEPS
        stage["save"] = {"every_steps": save_every, "keep": 2}
        tree["stages"] = [stage]
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    def start(self, *args: str) -> "subprocess.Popen[str]":
        """`rushes train` without Ray."""
        command = (sys.executable, "-m", "orchestrator", "train", str(self.folder / "recipe.yaml"))
        return subprocess.Popen(
            [*self.inside, *command, "--local", *args],
            cwd=ROOT,
            env=own_environment()
            | {"XDG_CACHE_HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1"}
            | self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def own_environment() -> dict[str, str]:
    """What a new process inherits; not what says how ranks of this one meet, or its Ray."""
    meeting = ("RAY_", "GLOO_", "NCCL_")
    return {name: value for name, value in os.environ.items() if not name.startswith(meeting)}


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.out}{self.err}"


def ended(process: "subprocess.Popen[str]") -> Ended:
    """Waits for a command."""
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Ended(code=process.returncode, out=out, err=err)


def saved(store: Store) -> list[int]:
    """The steps with a COMMIT, newest first."""
    return committed(store, CHECKPOINTS)


@dataclass(frozen=True)
class Result:
    """What a finished run has come to; bit for bit, so equal runs compare equal.

    Attributes:
        weights: a hash of what the run is for.
        state: hashes of the newest checkpoint's files by rank: masters, moments, EMA.
        position: where in the clips it stands.
        curve: every step once, with its losses, gradient norms and learning rate.
    """

    weights: str
    state: dict[str, str]
    position: Any
    curve: list[tuple[int, dict[str, float]]]


def result_of(store: Store) -> Result:
    """Reads a finished run."""
    folder = f"{CHECKPOINTS}/step-{saved(store)[0]:08d}"
    files = json.loads(store.get(f"{folder}/COMMIT"))["files"]
    # rank-0000-of-0001-WRITER.safetensors: every process has a name of its own.
    ranks = {name[:17]: file["xxh64"] for name, file in files.items() if name != "index.json"}
    index = json.loads(store.get(f"{folder}/index.json"))
    weights = store.get(f"stages/{STAGE}/weights/ema.safetensors")
    return Result(
        weights=hashlib.sha256(weights).hexdigest(),
        state=ranks,
        position=index["extra"]["stream"],
        curve=curve(store),
    )


def metrics(store: Store) -> list[dict[str, float]]:
    """The log of steps."""
    lines = store.get(f"stages/{STAGE}/metrics.jsonl").decode().splitlines()
    return [json.loads(line) for line in lines]


def curve(store: Store) -> list[tuple[int, dict[str, float]]]:
    """What is logged and does not depend on the machine, step by step."""
    return [
        (int(row["step"]), {name: value for name, value in row.items() if _is_judged(name)})
        for row in metrics(store)
    ]


def _is_judged(name: str) -> bool:
    return name.split("/")[0] in _JUDGED


def assert_each_clip_once(store: Store) -> None:
    """The logs of all gangs of a finished run together prove it."""
    (found,) = audit_run(store.uri, on_steps=lambda *_: None)
    assert found.report.faults == []
    assert (found.start, found.report.steps) == (0, STEPS)
    assert found.report.epochs[0].is_whole


def assert_tracked(place: Place, store: Store, *, last: Ended) -> None:
    """MLflow has every step of every metric once, with the run's own values.

    Args:
        place: of a finished run.
        store: the run's folder.
        last: its last command. MLflow may have been slower than a command waits: then the same
            command sends the rest.
    """
    from mlflow import MlflowClient  # late: seconds

    while BEHIND in last.out:
        last = ended(place.start())
        assert last.code == 0, str(last)
    client = MlflowClient(place.tracking_uri, registry_uri=place.tracking_uri)
    experiment = client.get_experiment_by_name("rushes")
    assert experiment is not None
    stage = f"tags.`rushes.stage` = '{STAGE}'"
    (run,) = client.search_runs([experiment.experiment_id], stage)
    assert run.info.status == "FINISHED"
    rows = metrics(store)
    logged = {name for name in run.data.metrics if not name.startswith("goodput/")}
    assert logged == {name for row in rows for name in row} - {"step", "time_ms"}
    for name in logged:
        history = client.get_metric_history(run.info.run_id, name)
        wanted = {row["step"]: row[name] for row in rows if name in row}
        assert sorted(one.step for one in history) == sorted(wanted), name
        if _is_judged(name):
            assert {one.step: one.value for one in history} == wanted, name
