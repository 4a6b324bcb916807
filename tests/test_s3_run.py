"""The same recipe with its clips and its run in a bucket of a real S3 server."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.errors import UnavailableError, UserError
from orchestrator.launch.sample import sample_run
from orchestrator.launch.status import read_status
from orchestrator.launch.train import train
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import open_store
from tests.groups import leave_group
from tests.tiny import tiny_tree

pytestmark = pytest.mark.s3


def recipe_in(place: str, *, folder: Path) -> Recipe:
    tree = tiny_tree(place)
    tree["tracking"] = {"uri": f"sqlite:///{folder}/mlflow.db"}
    tree["data"]["cache_dir"] = str(folder / "cache")
    return parse_recipe(tree, origin="tiny")


def run_quietly(recipe: Recipe) -> str:
    shown = io.StringIO()
    try:
        train(recipe, run=None, local=True, console=Console(file=shown, width=200))
    finally:
        leave_group()
    return shown.getvalue()


def test_a_run_lives_in_a_bucket_from_clips_to_samples(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    recipe = recipe_in(bucket, folder=tmp_path)
    run_quietly(recipe)
    uri = f"{bucket}/runs/tiny"
    status = read_status(uri)
    assert [stage["state"] for stage in status["stages"]] == ["done"] * 4
    store = open_store(uri)
    lines = store.get("stages/dit/metrics.jsonl").decode().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    kept = [key for key in store.list("stages/dit/checkpoints/") if key.endswith("/COMMIT")]
    assert len(kept) == 2

    paths = sample_run(
        uri,
        ["a blue two moving up", "a red one moving left"],
        out=tmp_path / "out",
        seed=1,
        npz=True,
        distilled=True,
        on_clips=lambda _: None,
    )
    each = [f"{number:04d}.{kind}" for number in (0, 1) for kind in ("mp4", "gif", "npz")]
    assert [path.name for path in paths] == [*each, "sheet.mp4", "sheet.gif", "sheet.png"]
    assert all(path.stat().st_size for path in paths)

    # Started again, it finds everything done.
    run_quietly(recipe)
    assert read_status(uri)["attempts"] == 2
    assert store.get("stages/dit/metrics.jsonl").decode().splitlines() == lines


def test_a_bucket_that_is_not_there_is_named(s3: object, tmp_path: Path) -> None:
    recipe = recipe_in("s3://no-such-bucket", folder=tmp_path)
    with pytest.raises(UserError, match="no-such-bucket") as caught:
        run_quietly(recipe)
    assert caught.value.exit_code == 2


def test_a_store_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="s3://bucket") as caught:
        run_quietly(recipe_in("s3://bucket", folder=tmp_path))
    assert caught.value.exit_code == 75
