"""A secret in a recipe or in a URI is refused before anything is written, and not repeated."""

from pathlib import Path

import pytest

from tests.launch.test_cli import DEBUG, rushes

SECRET = "planted-secret"


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tracking.uri", f"postgresql://me:{SECRET}@db/mlflow"),
        ("tracking.uri", f"https://{SECRET}@mlflow.example.com"),
        ("tracking.uri", f"postgresql://me@db/mlflow?password={SECRET}"),
        ("tracking", f"https://me:{SECRET}@a-server-with-quite-a-long-name.example.com"),
        ("runs", f"s3://me:{SECRET}@films/runs"),
        ("data.train.uri", f"az://films/clips?sig={SECRET}"),
        ("data.eval", f"s3://me:{SECRET}@films/clips"),
        ("data.cache_dir", f"s3://me:{SECRET}@films/cache"),
        ("tracking.experiment", f"films of https://{SECRET}@films.example.com"),
        ("stages.dit.train.preview.prompts", f"[https://films/a?token={SECRET}]"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [("check",), ("plan",), ("train", "--local"), ("submit", "--address", "http://127.0.0.1:1")],
    ids=lambda command: command[0],
)
def test_a_recipe_with_a_secret_is_refused(
    command: tuple[str, ...],
    field: str,
    value: str,
    capsys: pytest.CaptureFixture[str],
    own_folder: Path,
) -> None:
    name, *options = command
    code, out, err = rushes(capsys, name, str(DEBUG), *options, "--set", f"{field}={value}")
    assert code == 2
    (line,) = err.splitlines()
    assert f"{field}" in line
    assert SECRET not in out + err
    assert not list(own_folder.iterdir())


@pytest.mark.parametrize("place", [f"s3://me:{SECRET}@films/a", f"gs://films/a?token={SECRET}"])
@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        ("evaluate",),
        ("train", str(DEBUG), "--local", "--run"),
        ("prepare", "clips"),
        ("data", "index"),
    ],
    ids=lambda command: command[0],
)
def test_a_place_with_a_secret_is_refused(
    command: tuple[str, ...], place: str, capsys: pytest.CaptureFixture[str], own_folder: Path
) -> None:
    code, out, err = rushes(capsys, *command, place)
    assert code == 2
    assert "wanted credentials in the environment" in err
    assert SECRET not in out + err
    assert not list(own_folder.iterdir())


def test_a_configuration_of_clips_with_a_secret_is_refused(
    capsys: pytest.CaptureFixture[str], own_folder: Path
) -> None:
    model = f"[{{use: a:B, options: {{url: 'http://me:{SECRET}@captions:8000'}}}}]"
    code, out, err = rushes(capsys, "prepare", "clips", "shards", "--set", f"captioners={model}")
    assert code == 2
    assert "captioners.0.options.url: seen http://***@captions:8000, wanted it without" in err
    assert SECRET not in out + err
    assert not list(own_folder.iterdir())


def test_the_trace_of_a_defect_holds_no_secret(
    capsys: pytest.CaptureFixture[str], own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: object, **_: object) -> None:
        raise RuntimeError(f"GET https://me:{SECRET}@host: {SECRET} was refused")

    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr("tempfile.tempdir", str(own_folder))
    monkeypatch.setattr("orchestrator.recipe.load.load_recipe", fail)
    code, out, err = rushes(capsys, "train", str(DEBUG), "--local")
    assert code == 1
    (trace,) = own_folder.glob("*.trace")
    assert str(trace) in err
    assert "RuntimeError: GET https://***@host: *** was refused" in trace.read_text()
    assert SECRET not in out + err + trace.read_text()
