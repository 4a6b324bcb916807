"""The command line: exit codes, one line per error, nothing heavy before it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from orchestrator.errors import error_with_code

ROOT = Path(__file__).parents[2]
DEBUG = ROOT / "jobs" / "sora_debug.yaml"


def rushes(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    before = sys.argv
    sys.argv = ["rushes", *args]
    try:
        code = main()
    finally:
        sys.argv = before
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_check_prints_every_stage(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = rushes(capsys, "check", str(DEBUG))
    assert (code, err) == (0, "")
    for stage in ("autoencoder", "encode", "dit", "evaluate"):
        assert stage in out


def test_check_takes_many_recipes_and_names_those_that_are_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("version: 1\nbogus: 2\n")
    digits = ROOT / "jobs" / "sora_digits.yaml"
    paths = ["nowhere.yaml", str(DEBUG), str(wrong), str(digits)]
    code, out, err = rushes(capsys, "check", *paths)
    assert code == 2
    assert "sora-debug" in out
    assert "sora-digits" in out
    first, second = err.splitlines()
    assert "nowhere.yaml" in first
    assert str(wrong) in second
    assert rushes(capsys, "check", str(DEBUG), str(digits))[0] == 0


def test_a_change_that_does_not_fit_a_recipe_names_its_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = [str(DEBUG), str(ROOT / "jobs" / "imagen_video.yaml")]
    code, _, err = rushes(capsys, "check", *paths, "--set", "stages.ssr3.train.steps=7")
    assert code == 2
    (line,) = err.splitlines()
    assert str(DEBUG) in line


def test_check_imports_neither_torch_nor_ray() -> None:
    program = (
        "import sys; from orchestrator.__main__ import main; "
        f"sys.argv = ['rushes', 'check', {str(DEBUG)!r}]; code = main(); "
        "heavy = {'torch', 'ray', 'deepspeed', 'mlflow', 'numpy'} & set(sys.modules); "
        "print(heavy, file=sys.stderr) if heavy else None; sys.exit(code or len(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("check",), "RECIPE"),
        (("check", str(DEBUG), "--bogus"), "--bogus"),
        (("frobnicate",), "frobnicate"),
        (("check", "nowhere.yaml"), "nowhere.yaml"),
        (("check", str(DEBUG), "--set", "stages.dit.train.batch=33"), "train.batch=33"),
        (("train", str(DEBUG), "--set", "tracking.uri=ftp://x"), "tracking.uri=ftp://x"),
        (("submit", str(DEBUG), "--address", "127.0.0.1:8265"), "http://"),
        (
            ("submit", str(DEBUG), "--address", "http://head.example:8265"),
            "--run=runs: a relative folder",
        ),
        (
            (
                *("submit", str(DEBUG), "--address", "http://head.example:8265"),
                *("--set", "runs=s3://bucket/runs"),
                *("--set", "data.train.uri=s3://bucket/train"),
                *("--set", "data.eval.uri=s3://bucket/eval"),
            ),
            "tracking.uri=sqlite:///runs/mlflow.db: a relative file",
        ),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], args: tuple[str, ...], reason: str
) -> None:
    code, out, err = rushes(capsys, *args)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert reason in err


def test_a_cluster_that_does_not_answer_is_exit_75(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = rushes(capsys, "submit", str(DEBUG), "--address", "http://127.0.0.1:9")
    assert code == 75
    assert len(err.splitlines()) == 1
    assert "http://127.0.0.1:9" in err


@pytest.mark.parametrize("code", [1, 2, 75, 143])
def test_exit_codes_survive_a_process_boundary(code: int) -> None:
    assert error_with_code(code, "x").exit_code == code
