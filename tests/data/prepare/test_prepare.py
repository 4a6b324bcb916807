"""Preparation from end to end: every row accounted for, nothing done twice, the same bytes."""

import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from orchestrator.data.decode import decode
from orchestrator.data.index import HEAD, Index
from orchestrator.data.prepare.claim import OWNER
from orchestrator.data.prepare.executors import Here, OnDone, answered
from orchestrator.data.prepare.fates import ROWS, Report
from orchestrator.data.prepare.listing import list_source
from orchestrator.data.prepare.prepare import prepare
from orchestrator.data.prepare.tasks import Chain
from orchestrator.data.prepare.work import work
from orchestrator.data.reader import Reader
from orchestrator.data.validate import validate_clips
from orchestrator.errors import RushesError, UserError
from orchestrator.recipe.prepare import Prepare, load_prepare
from orchestrator.storage.errors import RefusedError
from orchestrator.storage.folder import FolderStore
from orchestrator.storage.fsspec_store import FsspecStore
from orchestrator.storage.store import Store, open_store
from tests.data.prepare.films import BLUE, GREEN, RED, broken_films, film, one_scene, photo, scene

SHAPES = ("frames: 8, size: [48, 64]", "frames: 8, size: [64, 64]", "frames: 1, size: [64, 64]")
BUCKETS = f"buckets=[{', '.join(f'{{{shape}}}' for shape in SHAPES)}]"
MODELS = "tests.data.prepare.models"


def configured(*overrides: str) -> Prepare:
    fast = ("encoding.preset=ultrafast", "unit_videos=2")
    return load_prepare(None, overrides=(BUCKETS, *fast, *overrides))


class Counting(Here):
    """Does tasks here and counts them by step; dies over videos, as a worker would."""

    def __init__(self, *, deadly: Sequence[str] = (), step: str = "score") -> None:
        self.done: Counter[str] = Counter()
        self._deadly = deadly
        self._step = step

    def run(self, chains: Sequence[Chain], *, on_done: OnDone) -> list[Chain]:
        died: list[Chain] = []
        for chain in chains:
            for task in chain:
                self.done[task.step] += 1
                touched = {*task.videos} - {*task.crashed} if task.only is None else {task.only}
                if task.step == self._step and touched & {*self._deadly}:
                    died.append(chain)
                    break
                answered(work([task.to_json()]))
            else:
                on_done(chain)
        return died


def run(
    raw: Path | str,
    out: Path | str,
    *,
    config: Prepare | None = None,
    executor: Here | None = None,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Report:
    return prepare(
        open_store(str(out)),
        list_source(str(raw), target=str(out)),
        source=str(raw),
        config=config or configured(),
        executor=executor or Here(),
        on_progress=on_progress,
    )


def rows_of(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / ROWS).to_pylist()


def files_of(out: Path) -> dict[str, bytes]:
    """All but the one that names the process."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != OWNER
    }


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of several scenes, a double, photos, captions, and everything that is broken."""
    folder = tmp_path_factory.mktemp("raw")
    broken_films(folder / "bad", seconds=4.0)
    film(folder / "two.mp4", [scene(1, frames=36, colour=RED), scene(2, frames=60, colour=BLUE)])
    (folder / "two.txt").write_text("first red, then blue")
    one_scene(folder / "green.mkv", 3, seconds=1.5, colour=GREEN)
    larger = (one.repeat(2, 0).repeat(2, 1) for one in scene(3, frames=36, colour=GREEN))
    film(folder / "sub.d" / "double..mp4", [larger])
    photo(folder / "p.png", 4)
    return folder


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    run(raw, out)
    return out


def test_what_is_prepared_is_a_whole_source(raw: Path, prepared: Path) -> None:
    index = Index.open(str(prepared))
    index.check_shards()
    assert validate_clips(index, on_clips=lambda *_: None).faults == ()
    assert {bucket: len(rows) for bucket, rows in index.buckets.items()} == {
        (1, 64, 64): 1,
        (8, 48, 64): 4,
    }
    samples = {one.key: one for one in map(index.sample, range(len(index)))}
    first, second = samples["two-00000"], samples["two-00002"]
    assert first.captions == second.captions == ("first red, then blue",)
    assert (first.original, first.start_s, first.end_s) == (str(raw / "two.mp4"), 0.0, 1.0)
    assert (second.start_s, second.end_s) == (1.5, 2.5)
    assert second.labels["scores"]["motion"] > 0
    assert [member.ext for member in first.members] == ["mp4", "txt", "json"]
    reader = Reader(index, cache_dir=None, cache_bytes=10**9, memory_bytes=0)
    row = next(row for row in range(len(index)) if index.sample(row).key == "two-00002")
    red, _, blue = reader.read(row)[1]["frames"].reshape(-1, 3).mean(0)
    assert blue > red


def test_every_video_and_clip_has_a_row_and_sums_add_up(raw: Path, tmp_path: Path) -> None:
    report = run(raw, tmp_path)
    rows = rows_of(tmp_path)
    files = [row for row in rows if row["kind"] != "clip"]
    clips = [row for row in rows if row["kind"] == "clip"]
    assert len(files) == report.videos == len(list_source(str(raw), target="/nowhere").rows)
    assert {row["key"]: row["reason"] for row in files if not row["ok"]} == {
        "bad/audio": "no-video",
        "bad/cut": "broken",
        "bad/empty": "empty",
        "bad/garbage": "broken",
        "bad/text": "broken",
        "bad/truncated": "broken",
        "bad/zeroed": "broken",
    }
    assert {row["key"]: row["reason"] for row in clips if not row["ok"]} == {
        "green-00001": "short",
        "green-00000": "double",
        "sub_d/double_-00001": "short",
        "two-00001": "short",
        "two-00004": "short",
    }
    assert (
        next(row for row in clips if row["reason"] == "double")["detail"]
        == "of sub_d/double_-00000"
    )
    assert sum(report.by_bucket.values()) == report.kept == sum(row["ok"] for row in clips)
    assert sum(report.by_reason.values()) == sum(not row["ok"] for row in rows)
    assert {row["key"] for row in clips if row["ok"]} == {
        key for row in [Index.open(str(tmp_path))] for key in row.keys(range(len(row)))
    }
    assert all(row["shard"] and row["bucket"] for row in clips if row["ok"])
    assert all(row["detail"] and row["step"] for row in rows if not row["ok"])


class Killed(BaseException):
    """The process ends here."""


def test_killed_after_every_few_writes_it_goes_on_to_the_same_bytes(
    raw: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = FolderStore.put
    left = 0

    def put_or_die(store: FolderStore, key: str, data: bytes | memoryview) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        put(store, key, data)

    monkeypatch.setattr(FolderStore, "put", put_or_die)
    for start in range(100):
        left = 2 + start % 4  # a shard takes three writes
        try:
            run(raw, tmp_path)
            break
        except Killed:
            assert not (tmp_path / HEAD).exists()
    assert start > 8
    assert files_of(tmp_path) == files_of(prepared)


@pytest.mark.parametrize("step", ["probe to score", "encode", "shards"])
def test_stopped_in_a_step_it_goes_on_to_the_same_bytes(
    raw: Path, prepared: Path, tmp_path: Path, step: str
) -> None:
    def stop(name: str, done: int, _total: int) -> None:
        if name == step and done:
            raise Killed

    with pytest.raises(Killed):
        run(raw, tmp_path, on_progress=stop)
    run(raw, tmp_path)
    assert files_of(tmp_path) == files_of(prepared)


def test_what_is_done_is_not_done_again(raw: Path, tmp_path: Path) -> None:
    first, again, other = Counting(), Counting(), Counting()
    report = run(raw, tmp_path, executor=first)
    assert first.done["probe"] == first.done["score"] > 1
    assert run(raw, tmp_path, executor=again) == report
    assert not again.done
    (tmp_path / HEAD).unlink()
    assert run(raw, tmp_path, executor=other) == report
    assert not other.done


@pytest.mark.parametrize(
    ("override", "steps"),
    [
        ("shard_bytes=1000000000", set()),
        ("keep.brightness.max=0.9", set()),
        ("encoding.crf=20", {"encode", "shards"}),
        ("scenes.threshold=30", {"scenes", "clips", "score"}),
    ],
)
def test_another_configuration_does_anew_what_hangs_on_it(
    raw: Path, prepared: Path, tmp_path: Path, override: str, steps: set[str]
) -> None:

    shutil.copytree(prepared, tmp_path / "out")
    counting = Counting()
    run(raw, tmp_path / "out", config=configured(override), executor=counting)
    assert set(counting.done) == steps
    run(raw, tmp_path / "alone", config=configured(override))
    assert files_of(tmp_path / "out") == files_of(tmp_path / "alone")


def test_a_changed_video_is_done_again_and_a_new_one_added(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    for number in range(3):
        one_scene(raw / f"{number}.mp4", number, seconds=1.0)
    config = configured("unit_videos=1")
    run(raw, out, config=config)
    one_scene(raw / "1.mp4", 9, seconds=2.0)
    one_scene(raw / "3.mp4", 7, seconds=1.0)
    counting = Counting()
    report = run(raw, out, config=config, executor=counting)
    assert (report.videos, report.kept) == (4, 5)
    assert counting.done["probe"] == 2
    (raw / "0.mp4").unlink()
    assert run(raw, out, config=config).kept == 4
    run(raw, tmp_path / "alone", config=config)
    assert files_of(out) == files_of(tmp_path / "alone")


def test_a_video_that_kills_its_worker_costs_only_itself(raw: Path, tmp_path: Path) -> None:
    counting = Counting(deadly=("two",))
    report = run(raw, tmp_path, executor=counting)
    dead = [row for row in rows_of(tmp_path) if row["reason"] == "crashed"]
    assert {row["video"] for row in dead} == {"two"}
    assert len(dead) == 3
    assert "died" in dead[0]["detail"]
    assert report.kept == 2


def test_a_video_that_kills_every_worker_at_once_is_a_row(raw: Path, tmp_path: Path) -> None:
    run(raw, tmp_path, executor=Counting(deadly=("p", "green"), step="probe"))
    dead = [row for row in rows_of(tmp_path) if row["reason"] == "crashed"]
    assert {(row["kind"], row["key"]) for row in dead} == {("image", "p"), ("video", "green")}


class AlwaysDead(Here):
    """Workers that die over several videos, never over one."""

    def run(self, chains: Sequence[Chain], *, on_done: OnDone) -> list[Chain]:
        return [chain for chain in chains if chain[0].only is None]


def test_workers_that_die_over_nothing_in_particular_end_it(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(RushesError, match="died over it again and again"):
        run(raw, tmp_path, executor=AlwaysDead())


def test_a_defect_costs_one_file(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.data.prepare import work as module

    score = module.score

    def faulty(row: Any, *args: Any) -> Any:
        if row.key == "green":
            raise KeyError("a defect\nof ours")
        return score(row, *args)

    monkeypatch.setattr(module, "score", faulty)
    run(raw, tmp_path)
    failed = [row for row in rows_of(tmp_path) if row["reason"] == "failed"]
    assert [(row["key"], row["step"]) for row in failed] == [("green-00000", "score")]
    assert failed[0]["detail"].startswith("KeyError: ")


def test_a_defect_outside_of_files_is_an_answer_and_no_death(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.data.prepare import work as module

    def faulty(*_: Any, **__: Any) -> Any:
        raise KeyError("a defect of ours")

    monkeypatch.setattr(module, "clips_of", faulty)
    with pytest.raises(RushesError, match=r"^clips \w+: KeyError: 'a defect of ours'$") as told:
        run(raw, tmp_path)
    assert told.value.exit_code == 1


def test_plug_ins_score_and_caption(raw: Path, tmp_path: Path) -> None:
    scorer = (
        f"scorers=[{{id: red, use: '{MODELS}:Redness', scores: [red], options: {{factor: 2}}}}]"
    )
    teller = f"captioners=[{{id: tell, use: '{MODELS}:Teller', frames: 3}}]"
    run(raw, tmp_path, config=configured(scorer, teller, "keep.red.min=0.9"))
    rows = {row["key"]: row for row in rows_of(tmp_path)}
    assert {key for key, row in rows.items() if row["reason"] == "red"} == {
        *("green-00000", "sub_d/double_-00000", "p-00000", "two-00002", "two-00003")
    }
    index = Index.open(str(tmp_path))
    (clip,) = (index.sample(row) for row in range(len(index)))
    assert clip.key == "two-00000"
    said = "3 frames, said: first red, then blue"
    assert clip.captions == ("first red, then blue", said)
    assert clip.labels["scores"]["red"] == dict(rows["two-00000"]["scores"])["red"] > 0.9
    assert rows["two-00000"]["captions"] == list(clip.captions)


def test_another_plug_in_leaves_the_other_steps_alone(
    raw: Path, prepared: Path, tmp_path: Path
) -> None:

    shutil.copytree(prepared, tmp_path / "out")
    counting = Counting()
    teller = f"captioners=[{{id: tell, use: '{MODELS}:Teller'}}]"
    run(raw, tmp_path / "out", config=configured(teller), executor=counting)
    assert set(counting.done) == {"caption-tell", "shards"}


def test_a_plug_in_that_fails_costs_the_clips_it_failed_on(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    for name, number in (("a", 1), ("b", 2)):
        one_scene(tmp_path / "raw" / f"{name}.mp4", number, seconds=1.0)
    scorer = f"scorers=[{{id: calm, use: '{MODELS}:Nervous', scores: [calm]}}]"
    report = run(tmp_path / "raw", tmp_path / "out", config=configured(scorer))
    assert report.by_reason == {("clip", "failed"): 1}
    (row,) = (row for row in rows_of(tmp_path / "out") if row["reason"] == "failed")
    assert (row["key"], row["detail"]) == ("b-00000", "calm: RuntimeError: does not like b")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("{id: x, use: 'no.where:X'}", "use=no.where:X: No module named 'no'"),
        (f"{{id: x, use: '{MODELS}:Nobody'}}", "wanted module:Class"),
        (f"{{id: x, use: '{MODELS}:Teller', options: {{a: 1}}}}", "options of"),
        (f"{{id: x, use: '{MODELS}:Sloppy', scores: [red]}}", "wanted ['red']"),
    ],
)
def test_a_plug_in_that_is_none_ends_it_in_one_line(
    raw: Path, tmp_path: Path, model: str, said: str
) -> None:
    with pytest.raises(UserError) as refused:
        run(raw, tmp_path, config=configured(f"scorers=[{model}]"))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_table_is_prepared(raw: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    rows = [
        {"path": str(raw / "green.mkv"), "caption": ["a green film", "green"]},
        {"path": str(raw / "gone.mp4")},
    ]
    table.write_text("\n".join(json.dumps(row) for row in rows))
    report = run(table, tmp_path / "out")
    assert report.by_reason == {("video", "missing"): 1, ("clip", "short"): 1}
    index = Index.open(str(tmp_path / "out"))
    assert index.sample(0).captions == ("a green film", "green")


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://prepare"
    return request.getfixturevalue("bucket")


@pytest.mark.parametrize(
    "place", ["memory", pytest.param("s3", marks=pytest.mark.s3)], indirect=True
)
def test_a_bucket_is_prepared_into_a_bucket(raw: Path, place: str) -> None:
    source, target = open_store(f"{place}/films"), f"{place}/prepared"
    for name in ("green.mkv", "p.png", "bad/cut.mp4"):
        source.put(name, (raw / name).read_bytes())

    def again(executor: Here) -> Report:
        return prepare(
            open_store(target),
            list_source(source.uri, target=target),
            source=source.uri,
            config=configured(),
            executor=executor,
            on_progress=lambda *_: None,
        )

    counting = Counting()
    report = again(Here())
    assert again(counting) == report
    assert not counting.done
    assert report.kept == 2
    index = Index.open(target)
    originals = {index.sample(row).original for row in range(2)}
    assert originals == {None, f"{place}/films/green.mkv"}
    assert validate_clips(index, on_clips=lambda *_: None).faults == ()


@pytest.fixture
def refusing(raw: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, set[str]]:
    """A source of a film and a photo, and names that its store does not give away."""
    source = open_store("memory://refusing/films")
    for name in ("green.mkv", "p.png"):
        source.put(name, (raw / name).read_bytes())
    source.put("empty.mp4", b"")
    refused: set[str] = set()
    get_range = FsspecStore.get_range

    def get_or_refuse(store: FsspecStore, key: str, *, start: int, length: int) -> bytes:
        if key in refused:
            raise RefusedError(f"{key}: the store refused these credentials")
        return get_range(store, key, start=start, length=length)

    monkeypatch.setattr(FsspecStore, "get_range", get_or_refuse)
    return source, refused


def test_a_file_that_the_store_refuses_is_a_row(
    refusing: tuple[Store, set[str]], tmp_path: Path
) -> None:
    source, refused = refusing
    refused.add("green.mkv")
    report = run(source.uri, tmp_path)
    assert (report.by_reason, report.kept) == (
        {("video", "refused"): 1, ("video", "empty"): 1},
        1,
    )
    (row,) = (row for row in rows_of(tmp_path) if row["reason"] == "refused")
    assert row["detail"] == "green.mkv: the store refused these credentials"


def test_a_store_that_refuses_everything_ends_it_and_leaves_no_rows(
    refusing: tuple[Store, set[str]], tmp_path: Path
) -> None:
    source, refused = refusing
    refused |= {"green.mkv", "p.png"}
    with pytest.raises(UserError, match=r"films: all of 2 files are refused.*; \S+: the store"):
        run(source.uri, tmp_path)
    assert not (tmp_path / ROWS).exists()
    refused.clear()
    assert run(source.uri, tmp_path).kept == 2


def test_a_target_that_refuses_ends_it(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = FolderStore.put

    def put_or_refuse(store: FolderStore, key: str, data: bytes | memoryview) -> None:
        if key.endswith(".clips"):
            raise RefusedError(f"{key}: permission denied")
        put(store, key, data)

    monkeypatch.setattr(FolderStore, "put", put_or_refuse)
    with pytest.raises(UserError, match=r"\.clips: permission denied"):
        run(raw, tmp_path)
    assert not (tmp_path / ROWS).exists()


def test_encoded_clips_may_be_dropped(raw: Path, prepared: Path, tmp_path: Path) -> None:
    report = run(raw, tmp_path, config=configured("keep_encoded=false"))
    assert not list((tmp_path / "steps").glob("encode/*"))
    counting = Counting()
    assert run(raw, tmp_path, config=configured("keep_encoded=false"), executor=counting) == report
    assert not counting.done
    shards = [name for name in files_of(tmp_path) if name.endswith(".tar")]
    assert [(prepared / name).read_bytes() for name in shards] == [
        (tmp_path / name).read_bytes() for name in shards
    ]


def test_shards_are_of_about_the_wanted_size(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    for number in range(12):
        photo(raw / f"{number:02d}.png", number, size=(700, 700))
    images = "buckets=[{frames: 1, size: [512, 512]}]"
    run(raw, tmp_path / "out", config=configured(images, "shard_bytes=1000000", "dedup=null"))
    sizes = [path.stat().st_size for path in sorted((tmp_path / "out").glob("*.tar"))]
    clips = Index.open(str(tmp_path / "out"))
    assert len(clips) == 12
    assert len(sizes) > 1 or sum(sizes) < 1_000_000
    assert all(size <= 1_030_000 for size in sizes)


def test_nothing_kept_leaves_rows_and_no_index(tmp_path: Path) -> None:
    broken_films(tmp_path / "raw")
    report = run(tmp_path / "raw", tmp_path / "out")
    assert report.kept == 0
    assert len(rows_of(tmp_path / "out")) == report.videos
    assert not (tmp_path / "out" / HEAD).exists()


def test_a_damaged_encoded_clip_is_not_packed(raw: Path, tmp_path: Path) -> None:
    def stop(name: str, done: int, _total: int) -> None:
        if name == "shards":
            raise Killed

    with pytest.raises(Killed):
        run(raw, tmp_path, on_progress=stop)
    blob = max((tmp_path / "steps" / "encode").glob("*.clips"), key=lambda one: one.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[10] ^= 1
    blob.write_bytes(data)
    with pytest.raises(UserError, match="damaged at byte 0"):
        run(raw, tmp_path)


def test_encoded_clips_that_are_lost_are_told_and_no_clip_is_dropped(
    raw: Path, prepared: Path, tmp_path: Path
) -> None:
    shutil.copytree(prepared, tmp_path / "out")
    for blob in (tmp_path / "out" / "steps" / "encode").glob("*.clips"):
        blob.unlink()
    teller = f"captioners=[{{id: tell, use: '{MODELS}:Teller'}}]"
    with pytest.raises(UserError, match=r"\.clips: damaged at byte 0, .* delete the \.parquet"):
        run(raw, tmp_path / "out", config=configured(teller))


@pytest.mark.parametrize("override", ["keep_encoded=false", "encoding.crf=20"])
def test_killed_while_it_forgets_no_rows_are_left_without_their_clips(
    raw: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    shutil.copytree(prepared, tmp_path / "out")
    delete = FolderStore.delete

    def delete_or_die(store: FolderStore, key: str) -> None:
        delete(store, key)
        if key.startswith("steps/encode/"):
            raise Killed

    monkeypatch.setattr(FolderStore, "delete", delete_or_die)
    with pytest.raises(Killed):
        run(raw, tmp_path / "out", config=configured(override))
    monkeypatch.setattr(FolderStore, "delete", delete)
    assert run(raw, tmp_path / "out").kept == 5
    assert files_of(tmp_path / "out") == files_of(prepared)


def test_frames_of_every_kept_clip_decode(prepared: Path) -> None:

    with tarfile.open(prepared / "shard-000001.tar") as archive:
        names = archive.getnames()
        assert all(not name.startswith("/") and ".." not in name.split("/") for name in names)
        first = next(name for name in names if name.endswith(".mp4"))
        file = archive.extractfile(first)
        assert file is not None
        assert decode({"mp4": file.read()})["frames"].shape == (8, 48, 64, 3)
