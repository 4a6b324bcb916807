"""Every kind of pixel network: two sharded ranks train it as one plain process does.

Tolerance as in test_recipe_curves.py, with the same reason; and where a network has come close to
its target, as a student at its teacher, no more than their difference is known to: both are of the
order of 1 and rounded to float32, in other orders of addition.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from orchestrator.data.sources import ensure_sources
from orchestrator.recipe.load import parse_recipe
from orchestrator.train.job import StageJob
from orchestrator.train.worker import run
from tests.cascades import STEPS, imagen_tree, make_a_video_tree
from tests.numerics.gang import Gang
from tests.numerics.stages import train_stage
from tests.train.workers import Recorded

RELATIVE = 2e-5
ROUNDING = 4 * 2.0**-24  # of the difference of two numbers of the order of 1
TREES = {"imagen": imagen_tree, "make-a-video": make_a_video_tree}


def job_of(folder: Path, system: str, stage: str, *, run: Path, zero: int | None) -> StageJob:
    """A stage for a plain process, or for two ranks under a ZeRO stage."""
    tree = TREES[system](folder / system, workers=0 if zero is None else 2)
    for one in tree["stages"]:
        if zero is not None and one["id"] == stage:
            one["compute"] = {"workers": 2, "zero": zero}
            # Recomputation calls layers again, which under ZeRO-3 all ranks have to do alike.
            one.setdefault("train", {})["checkpointing"] = zero == 3
        elif zero is not None:
            one.pop("compute", None)
        if one["id"] == "pair" and zero is not None:
            one["train"]["micro_batch"] = 2
            one["compute"] = {"workers": 2, "zero": zero}
    recipe = parse_recipe(tree, origin=system)
    ensure_sources(recipe, on_clips=lambda *_: None)
    return StageJob(recipe=recipe, stage=stage, run=str(run), attempt=1)


def curve(run: Path, stage: str) -> list[tuple[float, float]]:
    """Gradient norm and loss, which is a mean square, of all steps."""
    path = run / "stages" / stage / "metrics.jsonl"
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    (norm,) = (name for name in rows[0] if name.startswith("grad_norm/"))
    return [(row[norm], row["loss"]) for row in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cascades")
    for system, stages in (
        ("imagen", ("base", "ssr1", "ssr2", "base-guided", "base-2")),
        ("make-a-video", ("pair", "prior", "decoder", "decoder_video", "interpolation")),
    ):
        for stage in stages:
            job = job_of(folder, system, stage, run=folder / f"{system}-plain", zero=None)
            assert run(job, hooks=Recorded()).status == "done"
            dist.destroy_process_group()
    return folder


@pytest.mark.parametrize(
    ("system", "stage", "zero"),
    [
        ("imagen", "base", 3),
        ("imagen", "ssr1", 2),
        ("imagen", "base-guided", 1),
        ("imagen", "base-2", 3),
        ("make-a-video", "pair", 1),
        ("make-a-video", "prior", 2),
        ("make-a-video", "decoder_video", 3),
        ("make-a-video", "interpolation", 2),
    ],
)
def test_two_sharded_ranks_train_as_one_plain_process(
    folder: Path, gangs: dict[int, Gang], tmp_path: Path, system: str, stage: str, zero: int
) -> None:
    plain, sharded = folder / f"{system}-plain", tmp_path / "run"
    (sharded / "stages").mkdir(parents=True)
    for done in (plain / "stages").iterdir():
        if done.name != stage:
            (sharded / "stages" / done.name).symlink_to(done)
    job = job_of(folder, system, stage, run=sharded, zero=zero)
    assert gangs[2].run(train_stage, job=job.model_dump_json()) == ["done", "done"]
    for found, wanted in zip(curve(sharded, stage), curve(plain, stage), strict=True):
        relative = max(RELATIVE, ROUNDING / math.sqrt(wanted[1]))
        assert found == pytest.approx(wanted, rel=relative)
