"""`rushes plan`: what it prints, writes and refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from orchestrator.__main__ import main
from orchestrator.recipe.digest import recipe_tree
from orchestrator.recipe.load import load_recipe

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


def test_counting_on_shapes_imports_none_of_torchs_compiler() -> None:
    """It takes seconds to import, and is what torch runs some calls with on the meta device."""
    script = (
        "import sys; from pathlib import Path; from orchestrator.recipe.load import load_recipe; "
        "from orchestrator.train.measure import measure; "
        f"[measure(load_recipe(one)) for one in Path({str(JOBS)!r}).glob('*.yaml')]; "
        "print({'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"


def test_failures_cost_goodput_and_elastic_gangs_lose_less(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def goodput(*more: str) -> float:
        code, out, _ = rushes(capsys, str(DEBUG), "--nodes", "2", "--json", *more)
        assert code == 0
        plan = json.loads(out)
        (stage,) = (one for one in plan["stages"] if one["stage"] == "dit")
        assert plan["likely_seconds"] > plan["seconds"]
        return stage["failures"]["expected"]["goodput"]

    slow = ("--set", "stages.dit.train.steps=2000000", "--mttf", "1")
    assert goodput(*slow, "--elastic") > goodput(*slow, "--rigid")
    assert goodput(*slow, "--rigid") == goodput(*slow, "--rigid", "--seed", "0")
    assert goodput("--mttf", "1000000") > goodput("--mttf", "0.1")


@pytest.mark.parametrize("hours", ["0", "-3", "inf", "nan"])
def test_hours_between_failures_that_are_none_are_refused(
    capsys: pytest.CaptureFixture[str], hours: str
) -> None:
    code, out, err = rushes(capsys, str(DEBUG), f"--mttf={hours}")
    assert (code, out) == (2, "")
    assert f"--mttf {hours}: wanted hours above 0" in err


@pytest.mark.parametrize("wrong", ["node_mttf_h: 0", "restart_s: .inf", "mttf: 5"])
def test_a_file_of_failures_that_is_wrong_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, wrong: str
) -> None:
    path = tmp_path / "failures.yaml"
    path.write_text(wrong)
    code, _, err = rushes(capsys, str(DEBUG), "--failures", str(path))
    assert code == 2
    assert f"{path}: {wrong.split(':')[0]}" in err


def test_a_run_is_compared_with_its_plan_and_what_is_missing_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Of dit two steps and a checkpoint are there, of the autoencoder nothing."""
    tree = recipe_tree(load_recipe(DEBUG))
    folder = tmp_path / "stages" / "dit"
    checkpoint = folder / "checkpoints" / "step-00000010"
    checkpoint.mkdir(parents=True)
    (tmp_path / "recipe.json").write_text(json.dumps({"recipe": tree}))
    steps = [{"step": 1, "step_s": 3.0}, {"step": 2, "step_s": 1.0, "gpu_memory_mib": 64.0}]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in steps))
    index = json.dumps({"parameters": {"a": {"shape": [3, 5]}, "b": {"shape": [7]}}})
    (checkpoint / "index.json").write_text(index)
    (checkpoint / "COMMIT").write_text("{}")
    code, out, err = rushes(capsys, "--compare", str(tmp_path), "--json")
    assert (code, err) == (0, "")
    compared = json.loads(out)["compared"]
    found = {name: one["measured"] for name, one in compared["dit"].items()}
    assert found == {
        "parameters": 22,
        "step_s": 2.0,
        "memory_bytes": 64 * 2**20,
        "read_bytes": None,
        "checkpoint_bytes": len(index) + 2,
        "stored_bytes": len(index) + 2,
        "seconds": None,
        "goodput": None,
    }
    assert {one["measured"] for one in compared["autoencoder"].values()} == {None}
    code, out, _ = rushes(capsys, "--compare", str(tmp_path), "--out", str(tmp_path / "plan"))
    assert code == 0
    assert "missing" in out
    assert json.loads((tmp_path / "plan" / "plan.json").read_text())["compared"] == compared


def test_a_run_and_a_recipe_are_not_planned_together(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], [str(DEBUG), "--compare", "runs/x"]):
        code, _, err = rushes(capsys, *words)
        assert code == 2
        assert "RECIPE and --compare: wanted one of them" in err
