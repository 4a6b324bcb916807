"""Tracking URIs."""

import os
from pathlib import Path

import pytest

from orchestrator.errors import UserError
from orchestrator.tracking.target import make_folder, open_command, resolve_target

RUN = "s3://bucket/runs/one"


def test_a_relative_database_is_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = resolve_target("sqlite:///runs/mlflow.db", run_uri=RUN)
    assert target.uri == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert target.artifacts == f"file://{tmp_path}/runs/mlartifacts"
    command = open_command(target)
    assert command.endswith("mlflow ui --backend-store-uri sqlite:///runs/mlflow.db")


def test_an_absolute_database_stays_where_it_is(tmp_path: Path) -> None:
    target = resolve_target(f"sqlite:///{tmp_path}/a b/mlflow.db", run_uri=RUN)
    assert target.uri == f"sqlite:///{tmp_path}/a b/mlflow.db"
    assert target.artifacts == f"file://{tmp_path}/a%20b/mlartifacts"
    make_folder(target)
    assert (tmp_path / "a b").is_dir()
    assert open_command(target).endswith(f"'sqlite:///{tmp_path}/a b/mlflow.db'")


def test_a_server_keeps_artifacts_itself_and_is_opened_by_its_address() -> None:
    target = resolve_target("https://mlflow.example:5000/", run_uri=RUN)
    assert target.is_server
    assert target.artifacts is None
    assert open_command(target) == "https://mlflow.example:5000"


@pytest.mark.parametrize(
    ("run", "artifacts"),
    [(RUN, "s3://bucket/runs/mlartifacts"), ("/runs/one/", "file:///runs/mlartifacts")],
)
def test_a_database_server_keeps_artifacts_beside_the_run(run: str, artifacts: str) -> None:
    target = resolve_target("postgresql+psycopg2://host/mlflow", run_uri=run)
    assert (target.is_server, target.artifacts) == (False, artifacts)


@pytest.mark.parametrize(
    "uri", ["runs/mlruns", "file:///runs", "ftp://host", "sqlite://", "sqlite:///:memory:", ""]
)
def test_other_uris_are_refused_in_one_line(uri: str) -> None:
    with pytest.raises(UserError, match=r"^tracking\.uri=.*wanted sqlite:///FILE[^\n]*$"):
        resolve_target(uri, run_uri=RUN)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = resolve_target(f"sqlite:///{tmp_path}/file/mlflow.db", run_uri=RUN)
    with pytest.raises(UserError, match=f"tracking.uri folder {tmp_path}{os.sep}file"):
        make_folder(target)


def test_no_password_is_in_what_a_user_types() -> None:
    target = resolve_target("https://me:secret@host", run_uri=RUN)  # secret-scan: ok
    assert open_command(target) == "https://***@host"
