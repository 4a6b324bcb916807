"""Stages whose ranks share the tokens of a clip train and sample as one rank does."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from orchestrator.cascade.local_executor import LocalExecutor
from orchestrator.data.sources import ensure_sources
from orchestrator.errors import UserError
from orchestrator.launch.audit import audit_run
from orchestrator.launch.sample import sample_run
from orchestrator.recipe.load import parse_recipe
from orchestrator.train.job import StageJob
from orchestrator.train.loopback import HOST
from orchestrator.train.token_group import sampling_ranks
from tests.groups import free_port, leave_group
from tests.numerics.gang import Gang
from tests.tiny import STEPS, tiny_tree
from tests.train.token_groups import (
    sample_files,
    settled,
    train_until,
)

pytestmark = pytest.mark.slow

NOTHING: Mapping[str, Any] = {}


def tree_of(folder: Path, *, train: Mapping[str, Any] = NOTHING, **compute: Any) -> dict[str, Any]:
    tree = tiny_tree(folder)
    dit = tree["stages"][2]
    dit["train"] |= {"model": dit["train"]["model"] | {"heads": 4}, "log_every": 2, **train}
    dit["compute"] = compute
    return tree


def job_of(folder: Path, *, run: str, stage: str = "dit", **fields: Any) -> StageJob:
    tree = tree_of(folder, **fields)
    recipe = parse_recipe(tree | {"data": tree["data"] | {"audit": True}}, origin="tiny")
    return StageJob(recipe=recipe, stage=stage, run=f"{folder}/{run}", attempt=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one plain process's training of every stage."""
    folder = tmp_path_factory.mktemp("shared")
    for stage in ("autoencoder", "encode", "dit"):
        train_alone(job_of(folder, run="plain", stage=stage, workers=0))
    return folder


def train_alone(job: StageJob) -> None:
    ensure_sources(job.recipe, on_clips=lambda *_: None)
    executor = LocalExecutor(logs=Path(job.run).parent / "logs")
    assert executor.run(job, on_event=lambda _: None, stop=threading.Event()).status == "done"
    leave_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    with closing(Gang(world_size=2, folder=tmp_path_factory.mktemp("pair"))) as gang:
        yield gang


def new_run(folder: Path, run: str) -> None:
    stages = folder / run / "stages"
    stages.mkdir(parents=True)
    for stage in ("autoencoder", "encode"):
        (stages / stage).symlink_to(folder / "plain" / "stages" / stage)


def write_recipe(folder: Path, run: str) -> None:
    """Makes finished stages a run."""
    tree = job_of(folder, run=run, workers=0).recipe.model_dump(mode="json")
    (folder / run / "recipe.json").write_text(json.dumps({"recipe": tree}))


def curve(folder: Path, run: str) -> list[float]:
    """Losses and gradient norms."""
    path = folder / run / "stages" / "dit" / "metrics.jsonl"
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(2, STEPS + 1, 2))
    return [row[name] for row in rows for name in ("loss", "grad_norm/denoiser")]


def average(folder: Path, run: str) -> torch.Tensor:
    """All EMA weights in one row."""
    tensors = load_file(folder / run / "stages" / "dit" / "weights" / "ema.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.parametrize(
    ("sharing", "zero"), [(2, 0), (2, 1), (2, 2), (2, 3), (4, 0), (4, 2), (4, 3)]
)
def test_a_stage_trains_as_one_plain_process(
    folder: Path, gang: Gang, sharing: int, zero: int
) -> None:
    run = f"sharing-{sharing}-zero-{zero}"
    new_run(folder, run)
    job = job_of(folder, run=run, workers=gang.world_size, zero=zero, sequence_parallel=sharing)
    assert gang.run(train_until, job=job.model_dump_json()) == [("done", STEPS)] * gang.world_size
    # Six steps of AdamW let rounding grow, as in tests/numerics/test_recipe_curves.py.
    assert curve(folder, run) == pytest.approx(curve(folder, "plain"), rel=2e-5)
    wanted = average(folder, "plain")
    # AdamW makes steps of one size out of gradients of any, also of those that are all rounding.
    assert float((average(folder, run) - wanted).norm() / wanted.norm()) < 1e-4
    stage = folder / run / "stages" / "dit"
    assert list((stage / "samples").glob("*.gif"))
    readers = gang.world_size // sharing  # a clip that a group took is put down once
    assert {part.name for part in stage.glob("audit/*/*")} == {
        f"rank-{reader:05d}-of-{readers:05d}.jsonl" for reader in range(readers)
    }


def test_a_stage_in_bf16_with_recomputed_blocks_trains_as_one_plain_process(
    folder: Path, gang: Gang
) -> None:
    train = {"precision": "bf16", "checkpointing": True}
    for run in ("plain-bf16", "sharing-bf16"):
        new_run(folder, run)
    train_alone(job_of(folder, run="plain-bf16", train=train, workers=0))
    compute = {"workers": gang.world_size, "zero": 3, "sequence_parallel": 2}
    job = job_of(folder, run="sharing-bf16", train=train, **compute)
    assert gang.run(train_until, job=job.model_dump_json()) == [("done", STEPS)] * gang.world_size
    # Eight bits of each value; a sum that is taken twice would be out by far more.
    assert curve(folder, "sharing-bf16") == pytest.approx(curve(folder, "plain-bf16"), rel=3e-2)


@pytest.mark.parametrize("then", [1, 2])
def test_a_stage_goes_on_with_other_groups(folder: Path, gang: Gang, pair: Gang, then: int) -> None:
    """Stopped between two logged steps of four ranks, all of them one group."""
    run = f"resumed-{then}"
    new_run(folder, run)
    first = job_of(folder, run=run, workers=gang.world_size, zero=3, sequence_parallel=4)
    stopped = gang.run(train_until, job=first.model_dump_json(), stop_after=3)
    assert stopped == [("stopped", 3)] * gang.world_size
    second = job_of(folder, run=run, workers=2, zero=1, sequence_parallel=then)
    assert pair.run(train_until, job=second.model_dump_json()) == [("done", STEPS)] * 2
    assert curve(folder, run) == pytest.approx(curve(folder, "plain"), rel=2e-5)
    write_recipe(folder, run)
    audit = audit_run(f"{folder}/{run}", on_steps=lambda *_: None)[-1]
    assert (audit.stage, audit.report.faults) == ("dit", [])
    assert audit.readers == {1: [1, 2], 2: [1]}[then]


@pytest.mark.parametrize("bad_on", [[0], [1, 2]], ids=["one", "two"])
def test_a_clip_that_is_bad_for_one_rank_is_left_out_by_those_that_share_it(
    gang: Gang, bad_on: list[int]
) -> None:
    found = gang.run(settled, bad_on=bad_on)
    assert found == [(["another", f"second-{reader}"], 1.0) for reader in (0, 0, 1, 1)]


def test_groups_that_agree_read_nothing_again(gang: Gang) -> None:
    found = gang.run(settled, bad_on=[0, 1])
    assert [keys[0] for keys, _ in found] == ["another", "another", "first", "first"]


def test_sampling_a_run_writes_what_one_process_writes(
    folder: Path, pair: Gang, tmp_path: Path
) -> None:
    write_recipe(folder, "plain")
    run, (alone, shared) = f"{folder}/plain", (tmp_path / "alone", tmp_path / "shared")
    prompts = ["a red three moving left", "a blue nine"]
    sample_run(
        run,
        prompts,
        out=alone,
        seed=1,
        npz=True,
        distilled=True,
        on_clips=lambda _: None,
    )
    first, second = pair.run(sample_files, run=run, prompts=prompts, out=str(shared))
    assert (sorted(first), second) == (sorted(path.name for path in alone.iterdir()), [])
    for name in ("0000.npz", "0001.npz"):
        frames, wanted = (np.load(at / name)["frames"].astype(int) for at in (shared, alone))
        # Rounding may take a value over the edge to the next whole number.
        assert np.abs(frames - wanted).max() <= 1


def test_the_command_under_torchrun_writes_once(folder: Path, tmp_path: Path) -> None:
    write_recipe(folder, "plain")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--master-addr", HOST, "--master-port", str(free_port())]
    command += ["-m", "orchestrator", "sample", f"{folder}/plain", "a blue nine", "--seed", "1"]
    out = tmp_path / "samples"
    done = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(out / "0000.mp4"), str(out / "0000.gif")]
    assert all(Path(path).stat().st_size for path in done.stdout.split())


def test_more_processes_than_split_the_heads_sample_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    recipe = parse_recipe(tree_of(Path("/nowhere")), origin="tiny")
    with pytest.raises(UserError, match=r"WORLD_SIZE=3: stages\.dit\.train\.model has 4 heads"):
        sampling_ranks(recipe.stage("dit"))
    with pytest.raises(UserError, match=r"seen .*kind=video_autoencoder, wanted one process"):
        sampling_ranks(recipe.stage("autoencoder"))
