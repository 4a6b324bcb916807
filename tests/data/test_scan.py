"""WebDataset's tars without an index: scanned, read, and what is left out of them."""

import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from orchestrator.data.buckets import parse_bucket
from orchestrator.data.decode import npy_bytes
from orchestrator.data.digits_shards import ensure_digits
from orchestrator.data.index import HEAD, TABLE, Index
from orchestrator.data.reader import Reader
from orchestrator.data.scan import LEFT_OUT, Scan, scan_source
from orchestrator.data.validate import validate_clips
from orchestrator.errors import UserError
from orchestrator.recipe.data import ClipShape, Digits
from orchestrator.storage.store import open_store
from tests.data.clips import frames_of, write_source
from tests.data.test_decode import mp4_of
from tests.data.test_tars import tar_of

FILM = np.broadcast_to(
    np.array([16, 90, 160, 235], dtype=np.uint8)[:, None, None, None], (4, 32, 48, 3)
).copy()


def put(
    folder: Path, name: str, files: Mapping[str, bytes], *, form: int = tarfile.GNU_FORMAT
) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_of(files, form=form))


def scan(folder: Path, *, out: Path | None = None, buckets: Sequence[str] = ()) -> Scan:
    return scan_source(
        str(folder),
        out=None if out is None else str(out),
        on_shards=lambda *_: None,
        buckets=[parse_bucket(bucket) for bucket in buckets],
    )


def read(index: Index, row: int) -> np.ndarray:
    reader = Reader(index, cache_dir=None, cache_bytes=10**6, memory_bytes=0)
    return reader.read(row)[1]["frames"]


def test_videos_with_captions_become_a_source(tmp_path: Path) -> None:
    film = mp4_of(FILM)
    described = {"caption": " in json ", "place": "a\u00e9", "labels": {"digit": 3}}
    put(tmp_path, "00000.tar", {"x/a.mp4": film, "x/a.txt": b"a fade\n", "x/a.cls": b"7"})
    put(tmp_path, "sub/00000.tar", {"x/a.mp4": film, "x/a.json": json.dumps(described).encode()})
    assert scan(tmp_path) == Scan(shards=2, clips=2, uncaptioned=0, left_out=())
    index = Index.open(str(tmp_path))
    index.check_shards()
    first, second = (index.sample(row) for row in range(2))
    assert (first.key, first.shard, first.bucket, first.fps) == ("x/a", "00000.tar", (4, 32, 48), 8)
    assert (first.captions, first.labels) == (("a fade",), {})
    assert [member.ext for member in first.members] == ["mp4", "txt", "cls"]
    assert (second.shard, second.captions) == ("sub/00000.tar", ("in json",))
    assert second.labels == {"place": "a\u00e9", "digit": 3}
    assert first.duration_s == 0.5
    assert first.original is None
    for row in range(2):
        assert np.abs(read(index, row).astype(int) - FILM.astype(int)).max() <= 6
    assert validate_clips(index, on_clips=lambda *_: None).faults == ()


def test_lost_index_of_our_own_shards_is_made_again(tmp_path: Path) -> None:
    clips = Digits(clips=6, shapes=(ClipShape(frames=2, size=(20, 20)),))
    index = ensure_digits(clips, split="train", uri=str(tmp_path), on_clips=lambda *_: None)
    labels = [index.sample(row).labels for row in range(len(index))]
    for name in (HEAD, TABLE):
        index.store.delete(name)
    assert scan(tmp_path).clips == clips.clips
    again = Index.open(str(tmp_path))
    assert again.digest == index.digest
    assert [again.sample(row).labels for row in range(len(again))] == labels


def test_arrays_take_their_rate_from_json(tmp_path: Path) -> None:
    frames = frames_of(1, (3, 8, 8))
    put(
        tmp_path, "a.tar", {"a.npy": npy_bytes(frames), "a.json": b'{"fps": 4, "text": ["x", "y"]}'}
    )
    scan(tmp_path)
    index = Index.open(str(tmp_path))
    sample = index.sample(0)
    assert (sample.fps, sample.duration_s, sample.captions) == (4.0, 0.75, ("x", "y"))
    np.testing.assert_array_equal(read(index, 0), frames)


def test_clips_get_the_buckets_that_they_fit(tmp_path: Path) -> None:
    image = frames_of(2, (1, 40, 40))
    short = frames_of(3, (2, 40, 40))
    described = b'{"fps": 8}'
    files = {
        "film.mp4": mp4_of(FILM),
        "image.npy": npy_bytes(image),
        "image.json": described,
        "short.npy": npy_bytes(short),
        "short.json": described,
    }
    put(tmp_path, "a.tar", files)
    names = ("2x16x24@4", "3x24x16@8", "1x32x32@1")
    scanned = scan(tmp_path, buckets=names)
    assert scanned.left_out == (
        "a.tar: short: bucket 3x24x16@8: 2 frames at 8 fps, wanted at least 3 to take 3 at 8 fps "
        "from (nor any other of 2 buckets)",
    )
    index = Index.open(str(tmp_path))
    assert index.origin["buckets"] == list(names)
    assert index.buckets == {(2, 16, 24): [0], (1, 32, 32): [1]}
    film, still = (index.sample(row) for row in range(2))
    assert (film.fps, film.stored, film.stored_fps) == (4.0, (4, 32, 48), 8.0)
    assert (still.bucket, still.stored) == ((1, 32, 32), (1, 40, 40))
    means = read(index, 0).mean((1, 2, 3))
    assert np.abs(means - [16, 160]).max() <= 6
    assert read(index, 1).shape == (1, 32, 32, 3)
    assert validate_clips(index, on_clips=lambda *_: None).faults == ()


def test_index_may_be_kept_elsewhere(tmp_path: Path) -> None:
    bucket, beside = tmp_path / "bucket", tmp_path / "index"
    put(bucket, "a.tar", {"a.mp4": mp4_of(FILM)})
    assert scan(bucket, out=beside).uncaptioned == 1
    assert [path.name for path in bucket.iterdir()] == ["a.tar"]
    assert json.loads((beside / HEAD).read_text())["base"] == str(bucket)
    index = Index.open(str(beside))
    assert index.store.uri == str(bucket)
    assert read(index, 0).shape == (4, 32, 48, 3)


def test_what_the_reader_cannot_decode_is_left_out_and_told(tmp_path: Path) -> None:
    film = mp4_of(FILM)
    files = {
        "good.mp4": film,
        "cut.mp4": film[: len(film) // 2],
        "two.mp4": film,
        "two.low.mp4": film,
        "none.txt": b"no frames",
        "grey.npy": npy_bytes(np.zeros((4, 8, 8), np.uint8)),
        "rate.npy": npy_bytes(frames_of(1, (3, 8, 8))),
        "json.mp4": film,
        "json.json": b"[]",
        "half.mp4": film,
        "half.json": b'{"caption": "\\ud83d"}',
        "fast.mp4": film,
        "fast.json": b'{"fps": 1' + b"0" * 400 + b"}",
        "README": b"by hand",
    }
    put(tmp_path, "a.tar", files)
    scanned = scan(tmp_path)
    assert scanned.clips == 1
    told = dict(line.removeprefix("a.tar: ").split(": ", 1) for line in scanned.left_out)
    left_out = {"cut", "two", "none", "grey", "rate", "json", "half", "fast", "README"}
    assert set(told) == left_out
    for key, why in {
        "cut": "video",
        "two": "frames in low.mp4 and mp4, wanted them in one",
        "none": "no frames",
        "grey": "wanted uint8 [T, H, W, 3]",
        "rate": "no fps in its json",
        "json": "json: not an object",
        "half": "json: caption is not UTF-8",
        "fast": "json: fps is not a number above 0",
        "README": "no key and extension",
    }.items():
        assert why in told[key]
    assert (tmp_path / LEFT_OUT).read_text().splitlines() == list(scanned.left_out)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a.mp4", "../b.mp4"], r"a\.tar: \.\./b\.mp4: a name with \.\."),
        (["a.mp4", "/b.mp4"], r"a\.tar: /b\.mp4: an absolute name"),
        (["a.mp4", "b.mp4", "a.txt"], r"a\.tar: a\.txt: the key a comes twice"),
        (["a.mp4", "a.MP4"], r"a\.tar: a\.MP4: the key a comes twice"),
    ],
)
def test_what_a_tar_may_not_hold_is_refused(tmp_path: Path, names: list[str], told: str) -> None:
    put(tmp_path, "a.tar", dict.fromkeys(names, mp4_of(FILM)))
    with pytest.raises(UserError, match=told) as caught:
        scan(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / HEAD).exists()


def test_folders_that_cannot_be_indexed_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tar files, wanted at least one"):
        scan(tmp_path)
    put(tmp_path, "a.tar", {"a.txt": b"no frames"})
    with pytest.raises(
        UserError, match=r"1 tar files without a sample to read; a\.tar: a: no frames"
    ):
        scan(tmp_path)
    (tmp_path / "b.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"b\.tar\.gz: compressed, wanted plain tar files"):
        scan(tmp_path)


def test_a_second_scan_replaces_the_first_but_no_writers_index(tmp_path: Path) -> None:
    put(tmp_path / "a", "a.tar", {"a.mp4": mp4_of(FILM), "b.txt": b""})
    assert len(scan(tmp_path / "a").left_out) == 1
    put(tmp_path / "a", "a.tar", {"a.mp4": mp4_of(FILM)})
    assert scan(tmp_path / "a").left_out == ()
    assert not (tmp_path / "a" / LEFT_OUT).exists()
    write_source(str(tmp_path / "b"), {(3, 8, 8): 1})
    before = open_store(str(tmp_path / "b")).get(HEAD)
    with pytest.raises(UserError, match="an index that its writer made"):
        scan(tmp_path / "b")
    assert open_store(str(tmp_path / "b")).get(HEAD) == before
