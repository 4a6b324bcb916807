"""`rushes plan`: what it prints, writes and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.__main__ import main

JOBS = Path(__file__).parents[2] / "jobs"
DEBUG = JOBS / "sora_debug.yaml"


def rushes(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    before = sys.argv
    sys.argv = ["rushes", "plan", *args]
    try:
        code = main()
    finally:
        sys.argv = before
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_has_a_plan_for_64_gpus(
    capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    code, out, err = rushes(capsys, str(path), "--nodes", "8", "--json")
    assert (code, err) == (0, "")
    plan = json.loads(out)
    assert plan["gpus"] == 64
    assert plan["cost"] > 0.0
    trained = [stage for stage in plan["stages"] if stage["layouts"]]
    assert trained
    for stage in trained:
        chosen = stage["layouts"]["chosen"]
        assert chosen["fits"]
        assert chosen["ranks"] <= 64
        assert chosen["memory"]["total"] == sum(
            size for name, size in chosen["memory"].items() if name != "total"
        )
        assert stage["slot"]["end"] <= plan["seconds"]


def test_the_tables_say_what_every_stage_takes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out_folder = tmp_path / "plan"
    code, out, err = rushes(capsys, str(DEBUG), "--out", str(out_folder))
    assert (code, err) == (0, "")
    for word in ("sora-debug on H100", "memory of each GPU", "layouts", "ZeRO 1, 1 x 16"):
        assert word in out
    assert "critical path: autoencoder -> encode -> dit -> evaluate" in out
    bars = [line for line in out.splitlines() if "|" in line and "#" in line]
    assert [line.split()[0] for line in bars] == ["autoencoder", "encode", "dit", "evaluate"]
    with Image.open(out_folder / "plan.png") as picture:
        assert picture.size[0] > 500
    written = json.loads((out_folder / "plan.json").read_text())
    assert [stage["stage"] for stage in written["stages"]] == [line.split()[0] for line in bars]


def test_a_clip_that_no_gpu_holds_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = rushes(
        capsys,
        str(DEBUG),
        *("--set", "stages.dit.train.micro_batch=16384"),
        *("--set", "stages.dit.train.batch=32768"),
        *("--gpu", "L40S"),
    )
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "stages.dit with ZeRO 1, 1 x 16384 needs" in line
    assert "L40S has 43" in line
    assert "nearest that fits" in line
    assert "--set stages.dit.train.micro_batch=" in line


def test_a_gpu_that_is_not_in_the_table_is_refused_before_torch(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = rushes(capsys, str(DEBUG), "--gpu", "abacus")
    assert code == 2
    assert "--gpu abacus: not in the table, wanted one of H100" in err


def test_what_is_planned_imports_no_torch() -> None:
    rooms = "orchestrator.plan.plan, orchestrator.launch.plan"
    script = f"import {rooms}, sys; print('torch' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "False"
