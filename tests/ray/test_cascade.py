"""Independent stages on two CPUs: one fails, the driver is killed, the rest is never repeated."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cascade.goodput_file import read_rows
from orchestrator.storage.store import open_store
from tests.ray.conftest import Head
from tests.tiny import tiny_tree

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

LIMIT_S = 500
FIX = ("--set", "stages.bad.train.optim.lr=0.001")
STEPS = 40


@dataclass(frozen=True)
class Start:
    """A start of the command: how it ended, what it said, and what was finished then."""

    code: int
    out: str
    err: str
    done_ns: dict[str, int]  # when each DONE was written


@dataclass(frozen=True)
class Story:
    """The recipe with a mistake; mended, but the driver is killed; the same once more."""

    folder: Path
    failed: Start
    killed: Start
    ended: Start


@pytest.fixture(scope="module")
def story(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("cascade")
    recipe = write_recipe(folder)
    return Story(
        folder=folder,
        failed=run(head, recipe),
        killed=run_until_saved(head, recipe, FIX),
        ended=run(head, recipe, FIX),
    )


def write_recipe(folder: Path) -> Path:
    """`bad` diverges at run time, for want of a sensible learning rate; `late` needs it."""
    tree = tiny_tree(folder, workers=1)
    one = tree["stages"][0]
    one["train"]["objective"] = {"kind": "autoencoder", "l2": 1.0}
    bad = json.loads(json.dumps(one)) | {"id": "bad", "save": {"every_steps": 5}}
    bad["train"] |= {"steps": STEPS, "optim": {"lr": 1e30}}
    late = one | {"id": "late", "starts_from": "bad"}
    tree["stages"] = [bad, one | {"id": "good"}, one | {"id": "other"}, late]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def run(head: Head, recipe: Path, args: Sequence[str] = ()) -> Start:
    return ended(head.rushes("train", str(recipe), *args, RAY_ADDRESS=head.gcs), recipe)


def run_until_saved(head: Head, recipe: Path, args: Sequence[str]) -> Start:
    """Kills the driver once the stage has a checkpoint."""
    process = head.rushes("train", str(recipe), *args, RAY_ADDRESS=head.gcs)
    assert process.stdout is not None
    checkpoints = stages(recipe.parent) / "bad" / "checkpoints"
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("bad  running") and list(checkpoints.glob("*/COMMIT")):
            process.kill()
            break
    return ended(process, recipe, said="".join(said))


def ended(process: "subprocess.Popen[str]", recipe: Path, *, said: str = "") -> Start:
    out, err = process.communicate(timeout=LIMIT_S)
    done = stages(recipe.parent).glob("*/DONE")
    return Start(
        code=process.returncode,
        out=said + out,
        err=err,
        done_ns={one.parent.name: one.stat().st_mtime_ns for one in done},
    )


def stages(folder: Path) -> Path:
    return folder / "runs" / "tiny" / "stages"


def row(start: Start, stage: str) -> str:
    """A stage's row of the table at the end, without its lines."""
    table = start.out[start.out.index("why") :]
    rows: dict[str, str] = {}
    last = ""
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("\u2502\u2503").split("\u2502")]
        if len(cells) == 5:
            last = cells[0] or last
            rows[last] = " ".join(" ".join([rows.get(last, ""), *cells]).split())
    return rows[stage]


def test_a_failure_leaves_the_rest_to_complete(story: Story) -> None:
    assert story.failed.code == 1, story.failed.out + story.failed.err
    assert set(story.failed.done_ns) == {"good", "other"}


def test_the_table_and_the_last_line_say_what_failed_and_why(story: Story) -> None:
    failed = story.failed
    assert "failed" in row(failed, "bad")
    assert "of 200 steps were not applied (train.health.budget=10)" in row(failed, "bad")
    assert "needs bad" in row(failed, "late")
    assert "done" in row(failed, "good")
    (line,) = failed.err.splitlines()
    assert line.startswith("rushes: stage bad: at step ")
    assert "of 200 steps were not applied (train.health.budget=10), with no healthy " in line
    assert "Traceback" not in failed.out


def test_a_fixed_stage_does_not_go_on_from_what_had_failed(story: Story) -> None:
    killed = story.killed
    assert killed.code == -9
    assert "bad: changed since its last start: its checkpoints up to step" in killed.out
    assert "goes on from" not in killed.out
    assert list((stages(story.folder) / "bad" / "aside").glob("*/metrics.jsonl"))


def test_no_finished_stage_is_repeated(story: Story) -> None:
    assert story.ended.code == 0, story.ended.out + story.ended.err
    assert set(story.ended.done_ns) == {"bad", "good", "other", "late"}
    for start in (story.killed, story.ended):
        for stage, written_ns in story.failed.done_ns.items():
            assert start.done_ns[stage] == written_ns
            assert f"{stage}  done before" in start.out
            assert f"{stage}  starting" not in start.out
    assert len(list((story.folder / "runs" / "tiny" / "attempts").iterdir())) == 3


def test_a_killed_driver_loses_at_most_what_came_after_the_last_checkpoint(story: Story) -> None:
    assert "bad: goes on from step" in story.ended.out
    assert rows_of(story.folder, "bad") == list(range(1, STEPS + 1))


def test_every_second_of_every_rank_is_accounted_for(story: Story) -> None:
    rows, damaged = read_rows(open_store(str(stages(story.folder).parent)))
    assert not damaged
    assert {row.attempt for row in rows} == {1, 2, 3}
    assert {row.stage for row in rows} == {"bad", "good", "other", "late"}
    for row in rows:
        assert sum(row.seconds.values()) == pytest.approx(row.end - row.start, abs=1e-6)
    # What ranks say of themselves and what the clock says, over all starts.
    total = sum(row.end - row.start for row in rows)
    assert sum(row.gap_s for row in rows) <= 0.01 * total
    trained = [row for row in rows if row.last_step]
    assert {row.stage for row in trained} == {"bad", "good", "other", "late"}
    assert all(row.seconds.get("compute") or row.seconds.get("repeated") for row in trained)


def test_steps_that_are_run_again_are_in_the_ledger(story: Story) -> None:
    """The driver was killed after a checkpoint; the next start began there."""
    rows, _ = read_rows(open_store(str(stages(story.folder).parent)))
    killed, ended = (
        [row for row in rows if row.attempt == attempt and row.stage == "bad"] for attempt in (2, 3)
    )
    assert killed
    assert all("restart" in row.seconds for row in ended)
    assert not any("restart" in row.seconds for row in killed)  # another learning rate: new work


def rows_of(folder: Path, stage: str) -> list[Any]:
    lines = (stages(folder) / stage / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]
