"""A worker of a gang is killed: seconds to the first new step, over a plain start of the same.

On this machine's CPUs, on a Ray of its own: ``python benchmarks/recovery.py``. A plain start is
from the command to its first step. The gang is killed one half of a save interval after a save.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from orchestrator.tracking.spool import EVENTS, spool_folder

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "jobs" / "sora_debug.yaml"
STAGE = "autoencoder"
SAVE_EVERY = 20  # steps
KILL_AT = 3 * SAVE_EVERY // 2
BEYOND_S = 30.0  # the budget over a plain start
LIMIT_S = 600.0
_BACK = re.compile(r"lost workers at step (\d+), beyond it again .*\((\d+) steps repeated\)")


class Run:
    """The command, and what it notes of its steps."""

    def __init__(self, folder: Path) -> None:
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(_recipe(folder)))
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        home = folder / "home"
        self._uri = str(folder / "runs" / "recovery")
        self._events = spool_folder(home / "rushes" / "spool", run_uri=self._uri) / EVENTS
        self.began_s = time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "train", str(recipe)],
            cwd=ROOT,
            env=own | {"XDG_CACHE_HOME": str(home), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
        )

    def first_event(self, kind: str, **wanted: Any) -> dict[str, Any]:
        """Waits for an event: of a kind, with a text that fits or a step that was reached."""
        deadline_s = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            for event in self._read():
                if event["kind"] == kind and _fits(event, wanted):
                    return event
            time.sleep(0.05)
        raise SystemExit(f"no {kind} event with {wanted}; the command: {self.process.poll()}")

    def kill_a_worker(self) -> float:
        """SIGKILL to the rank that is not rank 0; returns when."""
        owner = json.loads((Path(self._uri) / "stages" / STAGE / "owner.json").read_text())["pid"]
        ranks = [
            one
            for one in psutil.Process(self.process.pid).children(recursive=True)
            if any("RayTrainWorker" in part for part in one.cmdline()) and one.pid != owner
        ]
        (victim,) = ranks
        victim.kill()
        return time.time()

    def _read(self) -> list[dict[str, Any]]:
        if not self._events.exists():
            return []
        lines = self._events.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]


def _fits(event: dict[str, Any], wanted: dict[str, Any]) -> bool:
    if "text" in wanted:
        return bool(re.match(wanted["text"], event["text"]))
    return "loss" in event["values"] and event["step"] >= wanted["step"]  # goodput's are seconds


def _recipe(folder: Path) -> dict[str, Any]:
    tree = yaml.safe_load(RECIPE.read_text())
    tree |= {"name": "recovery", "runs": str(folder / "runs")}
    tree["tracking"] = {"uri": f"sqlite:///{folder}/mlflow.db"}
    for name, clips in (("train", 128), ("eval", 16)):
        tree["data"][name] = {"uri": str(folder / name), "digits": {"clips": clips}}
    stage = next(one for one in tree["stages"] if one["id"] == STAGE)
    stage["train"] |= {"steps": 100_000, "log_every": 1}
    stage["save"] = {"every_steps": SAVE_EVERY}
    tree["stages"] = [stage]
    return tree


def measure(folder: Path) -> dict[str, Any]:
    """One start, one kill, one recovery."""
    run = Run(folder)
    try:
        first = run.first_event("metrics", step=1)
        run.first_event("metrics", step=KILL_AT)
        killed_s = run.kill_a_worker()
        note = run.first_event("note", text=_BACK.pattern)
        match = _BACK.match(note["text"])
        assert match is not None
        new = run.first_event("metrics", step=int(match[1]) + 1)
    finally:
        run.process.send_signal(signal.SIGTERM)
        run.process.wait()
    start_s = first["time_ms"] / 1000 - run.began_s
    recovery_s = new["time_ms"] / 1000 - killed_s
    return {
        "plain start, s": round(start_s, 1),
        "killed to new step, s": round(recovery_s, 1),
        "beyond a plain start, s": round(recovery_s - start_s, 1),
        "of it": round(recovery_s / start_s, 2),
        "steps repeated": int(match[2]),
        "save interval, steps": SAVE_EVERY,
        "parts": note["text"],
    }


def main() -> None:
    """Prints JSON; exits with 1 beyond the budget."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    rounds = parser.parse_args().rounds
    within = True
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="rushes-recovery-") as folder:
            found = measure(Path(folder))
        print(json.dumps(found, indent=1))
        within &= found["beyond a plain start, s"] <= BEYOND_S
        within &= found["steps repeated"] <= SAVE_EVERY
    print("python", *sys.argv)
    raise SystemExit(not within)


if __name__ == "__main__":
    main()
