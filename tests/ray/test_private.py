"""A debug run on a Ray of its own: who can reach it, and where secrets of its environment end."""

import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.launch.ray_session import TOKEN
from orchestrator.storage.store import open_store
from tests.ray.conftest import ROOT
from tests.ray.watched import Watched, files_below, holders
from tests.s3store import SECRET_KEY, S3Store
from tests.tiny import tiny_tree

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.slow, pytest.mark.timeout(600)]

LIMIT_S = 500.0
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,  # by which every process reads and writes the run
    "MLFLOW_TRACKING_PASSWORD": "planted-for-mlflow",
    "HF_TOKEN": "hf_planted-for-the-hub",
    "SOME_SERVICE_API_KEY": "planted-for-somebody-else",
}


@dataclass(frozen=True)
class Run:
    """A run that ended well, and what was seen of it.

    Attributes:
        files: all that it has left or had on this machine, its output, and its objects.
        token: of its Ray, which is to be in one file.
    """

    place: str
    watched: Watched
    files: list[tuple[Path | str, bytes]]
    token: tuple[Path, str]


def recipe_in(place: str, *, folder: Path) -> Path:
    tree: dict[str, Any] = tiny_tree(place, workers=2)
    tree["tracking"] = {"uri": f"sqlite:///{folder}/mlflow.db"}
    tree["data"]["cache_dir"] = str(folder / "clips-cache")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def objects_below(place: str, *, server: S3Store) -> list[tuple[str, bytes]]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment().items():
            patch.setenv(name, value)
        store = open_store(place)
        return [(f"{place}/{key}", store.get(key)) for key in store.list("")]


@pytest.fixture(scope="module")
def run(s3_server: S3Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("private")
    short = Path(f"/tmp/rp{os.getpid()}")  # the paths of Ray's sockets are long already
    short.mkdir()
    place = f"s3://{s3_server.bucket}/private"
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env = own | s3_server.environment() | SECRETS | {"TMPDIR": str(short), "OMP_NUM_THREADS": "1"}
    env |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    recipe = recipe_in(place, folder=folder)
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "train", str(recipe)],
            cwd=folder,
            env=env,
            stdout=output,
            stderr=output,
            text=True,
        )
    watched = Watched(process, folder=short, carries="HF_TOKEN")
    try:
        code = watched.until_it_ends(limit_s=LIMIT_S)
        assert code == 0, (folder / "output.txt").read_text()
        local = [*watched.files(), *files_below(short), *files_below(folder)]
        objects = objects_below(place, server=s3_server)
        ((token, value),) = {(path, data) for path, data in local if path.name == TOKEN}
        yield Run(
            place=place,
            watched=watched,
            files=[one for one in [*local, *objects] if one[0] != token],
            token=(token, value.decode()),
        )
    finally:
        watched.close()
        shutil.rmtree(short, ignore_errors=True)


def test_all_that_a_debug_run_opens_is_on_loopback(run: Run) -> None:
    outside = [
        (address, title)
        for address, title in run.watched.listening
        if not (ipaddress.ip_address(address).is_loopback or address == "::ffff:127.0.0.1")
    ]
    assert not outside
    titles = " ".join(title for _, title in run.watched.listening)
    for part in ("gcs_server", "raylet/raylet", "ray::RayTrainWorker"):  # it did look at them
        assert part in titles


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_of_the_environment_is_in_no_file_and_no_title(run: Run, name: str) -> None:
    assert not holders(run.files, text=SECRETS[name])
    assert not [title for title in run.watched.titles if SECRETS[name] in title]


def test_the_token_of_its_ray_is_in_one_file(run: Run) -> None:
    _, token = run.token
    assert len(token) == 64
    assert not holders(run.files, text=token)
    assert not [title for title in run.watched.titles if token in title]


def test_what_was_searched_is_all_that_there_is(run: Run) -> None:
    """A place that everything tells of is found in every kind of file: so a secret would be."""
    found = "\n".join(holders(run.files, text=run.place))
    for part in ("output.txt", "mlflow.db", "events.jsonl", f"{run.place}/runs/tiny/recipe.json"):
        assert part in found
    names = "\n".join(str(path) for path, _ in run.files)
    for part in ("logs/raylet.out", "logs/gcs_server.out", "logs/worker-", "feeder.log"):
        assert part in names
    heirs = " ".join(run.watched.heirs)
    assert "raylet/raylet" in heirs
    assert "orchestrator.tracking.feeder" in heirs
