"""A run of four workers on two nodes that loses a node and gets it back, beside one that does not.

Each node is a raylet with two CPUs on this machine, and each run is the command itself. Loss
curves, gang sizes and times go to elastic.png, which docs/reliability.md shows. The goodput of both
is printed beside that of their simulation, as ``rushes plan`` does it: docs/benchmarks.md.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from ray.cluster_utils import Cluster
from replay import Beside, Setting, replay

from orchestrator.cascade.goodput_file import KEY
from orchestrator.cascade.goodput_rows import Row, from_lines
from orchestrator.plan.simulate import Lived

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "jobs" / "sora_debug.yaml"
STAGE = "autoencoder"
WORKERS, CPUS = 4, 2  # of the full gang, of each node
SIZES = (1, 2, 4)
LOST_AT, BACK_AT = 0.3, 0.5  # parts of the run
OBJECT_STORE_BYTES = 80 << 20

Curve = list[dict[str, float]]


def write_recipe(folder: Path, *, steps: int) -> Path:
    """The debug recipe's first stage for one to four workers; its batch splits over 1, 2 and 4."""
    tree = yaml.safe_load(RECIPE.read_text())
    tree |= {"name": "elastic", "runs": str(folder / "runs")}
    tree["tracking"] = {"uri": f"sqlite:///{folder}/mlflow.db"}
    for split in ("train", "eval"):
        tree["data"][split]["uri"] = str(folder / "clips" / split)
    (stage,) = (one for one in tree["stages"] if one["id"] == STAGE)
    stage["train"] |= {"steps": steps, "batch": 8, "micro_batch": 2, "log_every": 1}
    stage["train"].pop("preview", None)
    stage["compute"] = {"workers": WORKERS, "min_workers": min(SIZES)}
    stage["save"] = {"every_steps": save_every(steps)}
    path = folder / "elastic.yaml"
    path.write_text(yaml.safe_dump(tree | {"stages": [stage]}))
    return path


def save_every(steps: int) -> int:
    """Steps between saves."""
    return max(steps // 10, 1)


@contextmanager
def two_nodes() -> Iterator[Cluster]:
    """A head and one more node, each a raylet of its own."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    node = {"num_cpus": CPUS, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Cluster) -> Any:
    """One more raylet; returns once the cluster knows it."""
    return cluster.add_node(num_cpus=CPUS, object_store_memory=OBJECT_STORE_BYTES)


def run(
    recipe: Path, cluster: Cluster, *, name: str, on_line: Callable[[str], None]
) -> tuple[Curve, list[str]]:
    """Runs the command to its end; what it logged and what it said."""
    folder = recipe.parent / "runs" / name
    command = [sys.executable, "-m", "orchestrator", "train", str(recipe), "--run", str(folder)]
    environment = os.environ | {"RAY_ADDRESS": cluster.address, "GLOO_SOCKET_IFNAME": "lo"}
    said: list[str] = []
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line.rstrip())
        print(f"{name}: {said[-1]}", flush=True)
        on_line(said[-1])
    if process.wait():
        raise SystemExit(f"{name} ended with {process.returncode}")
    lines = (folder / "stages" / STAGE / "metrics.jsonl").read_text().splitlines()
    keys = ("step", "loss", "ranks", "time_ms")
    return [{key: row[key] for key in keys} for row in map(json.loads, lines)], said


def ledger(recipe: Path, *, name: str) -> str:
    """What ``rushes status`` says of a run."""
    folder = recipe.parent / "runs" / name
    command = [sys.executable, "-m", "orchestrator", "status", str(folder)]
    environment = os.environ | {"COLUMNS": "100"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def rows_of(recipe: Path, *, name: str) -> list[Row]:
    """The ledger of a run's stage."""
    rows, _ = from_lines((recipe.parent / "runs" / name / KEY).read_bytes())
    return [row for row in rows if row.stage == STAGE]


def commit_s(recipe: Path, *, name: str, curve: Curve) -> float:
    """From a saved step to its checkpoint's COMMIT: the median of the checkpoints that are kept."""
    saved_s = {round(row["step"]): row["time_ms"] / 1000 for row in curve}
    folder = recipe.parent / "runs" / name / "stages" / STAGE / "checkpoints"
    commits = {int(file.parent.name[-8:]): file for file in folder.glob("step-*/COMMIT")}
    return statistics.median(file.stat().st_mtime - saved_s[step] for step, file in commits.items())


def simulated(
    recipe: Path, *, straight: Curve, steps: int, times: dict[str, float]
) -> tuple[list[Beside], Lived]:
    """Both runs beside what the plan's simulation makes of them."""
    setting = Setting(
        steps=steps,
        save_every=save_every(steps),
        commit_s=max(commit_s(recipe, name="undisturbed", curve=straight), 0.0),
        ranks_per_node=CPUS,
        sizes=SIZES,
    )
    undisturbed, elastic = (rows_of(recipe, name=name) for name in ("undisturbed", "elastic"))
    return replay(undisturbed, elastic, setting=setting, back_s=times["back"] - times["lost"])


def lose_and_get_back(cluster: Cluster, node: Any, *, steps: int) -> tuple[Any, dict[str, float]]:
    """What is done to the second node when the run has come so far; the times of it."""
    times: dict[str, float] = {}

    def on_line(line: str) -> None:
        progress = re.match(rf"{STAGE}  running  (\d+)/", line)
        if progress is None:
            return
        done = int(progress[1]) / steps
        if "lost" not in times and done >= LOST_AT:
            cluster.remove_node(node, allow_graceful=False)
            times["lost"] = time.time()
        elif "lost" in times and "back" not in times and done >= BACK_AT:
            add_node(cluster)
            times["back"] = time.time()

    return on_line, times


def measure(folder: Path, *, steps: int) -> dict[str, Any]:
    """Both runs, one after the other, on the same two nodes."""
    recipe = write_recipe(folder, steps=steps)
    with two_nodes() as cluster:
        node = add_node(cluster)
        straight, _ = run(recipe, cluster, name="undisturbed", on_line=lambda line: None)
        on_line, times = lose_and_get_back(cluster, node, steps=steps)
        elastic, said = run(recipe, cluster, name="elastic", on_line=on_line)
    if sorted(times) != ["back", "lost"]:
        raise SystemExit(f"the run was over too early: {times}; wanted more --steps")
    notes = [line for line in said if "goes on" in line]
    print(ledger(recipe, name="undisturbed"), ledger(recipe, name="elastic"), sep="\n")
    beside, lived = simulated(recipe, straight=straight, steps=steps, times=times)
    return {
        "undisturbed": straight,
        "elastic": elastic,
        "times": times,
        "notes": notes,
        "beside": beside,
        "lived": lived,
    }


def summary(found: dict[str, Any]) -> str:
    """How far the curves are apart, and how long each change took, in lines."""
    pairs = list(zip(found["undisturbed"], found["elastic"], strict=True))
    apart = max(abs(one["loss"] - other["loss"]) / one["loss"] for one, other in pairs)
    sizes = changes(found["elastic"])
    first = {ranks: row["time_ms"] / 1000 for _, ranks, row in sizes[1:]}
    lines = [*found["notes"], f"largest difference of the losses: {apart:.1e} of the loss"]
    for what, ranks in (("lost", 2.0), ("back", 4.0)):
        if ranks in first:
            lines.append(
                f"node {what}: {ranks:g} at work {first[ranks] - found['times'][what]:.1f} s later"
            )
    return "\n".join([*lines, *goodputs(found["beside"], found["lived"])])


def goodputs(beside: list[Beside], lived: Lived) -> list[str]:
    """Real and simulated, in percent, and where the simulation says that time went."""
    lines = [
        f"{one.name}: goodput {100 * one.real:.1f} %, simulated {100 * one.simulated:.1f} %, "
        f"{one.points:+.1f} points: {'pass' if one.is_near else 'fail'}"
        for one in beside
    ]
    parts = {
        "saves": lived.saving_s,
        "repeated": lived.repeated_s,
        "start, detection, restart": lived.down_s,
    }
    shown = ", ".join(f"{name} {seconds / lived.node_s:.1%}" for name, seconds in parts.items())
    return [
        *lines,
        f"simulated with failures: {shown} of {lived.node_s * CPUS / 3600:.3f} rank-hours",
    ]


def changes(curve: Curve) -> list[tuple[float, float, dict[str, float]]]:
    """First step, ranks and first row of every gang."""
    starts = [
        row
        for row, before in zip(curve, [None, *curve], strict=False)
        if before is None or before["ranks"] != row["ranks"]
    ]
    return [(row["step"], row["ranks"], row) for row in starts]


def draw(found: dict[str, Any], path: Path) -> None:
    """Loss by step, and steps by time, of both runs."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, style in (("undisturbed", {"lw": 3, "alpha": 0.4}), ("elastic", {"lw": 1})):
        rows = found[name]
        begun_s = rows[0]["time_ms"] / 1000
        steps = [row["step"] for row in rows]
        left.plot(steps, [row["loss"] for row in rows], label=name, **style)
        right.plot([row["time_ms"] / 1000 - begun_s for row in rows], steps, label=name, **style)
    for step, ranks, _ in changes(found["elastic"]):
        left.axvline(step, color="gray", lw=0.8, ls=":")
        left.text(step, left.get_ylim()[1], f" {ranks:g} workers", va="top", fontsize=8)
    begun_s = found["elastic"][0]["time_ms"] / 1000
    for what, at_s in found["times"].items():
        right.axvline(at_s - begun_s, color="gray", lw=0.8, ls=":")
        right.text(at_s - begun_s, 0, f" node {what}", fontsize=8)
    left.set(xlabel="step", ylabel="loss", yscale="log", title="what is trained: the same")
    right.set(xlabel="seconds since the first step", ylabel="step", title="when")
    left.legend(loc="lower left")
    figure.savefig(path, dpi=110)


def main() -> int:
    """Measures and draws; exit code 1 if a simulation is more than 3 points off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rushes-elastic-") as folder:
        found = measure(Path(folder), steps=args.steps)
    args.out.mkdir(parents=True, exist_ok=True)
    draw(found, args.out / "elastic.png")
    print(summary(found))
    return int(not all(one.is_near for one in found["beside"]))


if __name__ == "__main__":
    raise SystemExit(main())
