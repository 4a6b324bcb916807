"""`rushes data`: exit codes, what is printed, the picture."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from orchestrator.data.index import HEAD, TABLE
from tests.data.clips import flip_bit, write_source
from tests.data.test_decode import mp4_of
from tests.data.test_tars import tar_of
from tests.launch.test_cli import rushes

ROOT = Path(__file__).parents[2]
STILL, SHORT = (1, 8, 8), (5, 16, 8)


def test_a_whole_source_is_exit_0_with_its_sums(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_source(str(tmp_path), {SHORT: 6, STILL: 2})
    code, out, err = rushes(capsys, "data", "validate", str(tmp_path))
    assert (code, err) == (0, "")
    for words in ("8 in 2 shards", "2 for 8 clips", "uncaptioned 0", "16 x 8", "75.0%"):
        assert words in out
    assert out.splitlines()[-1] == "whole: hashes are right, every clip decodes"


def test_a_damaged_source_is_exit_2_with_its_faults(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    index = write_source(str(tmp_path), {STILL: 120})
    for shard in index.shards:
        flip_bit(index.store, shard, offset=0)
    code, out, err = rushes(capsys, "data", "validate", "--quick", str(tmp_path))
    assert code == 2
    assert err == f"rushes: {tmp_path}: 60 faults, wanted none\n"
    told = [line for line in out.splitlines() if line.startswith("shard-")]
    assert len(told) == 20
    assert "and 40 more" in out


@pytest.mark.parametrize("command", ["index", "validate", "show"])
def test_a_wrong_uri_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    code, out, err = rushes(capsys, "data", command, str(tmp_path / "nowhere"))
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert str(tmp_path / "nowhere") in line
    assert not (tmp_path / "nowhere").exists()


def test_strangers_tars_are_indexed_and_what_is_left_out_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    film = mp4_of(np.zeros((4, 32, 48, 3), np.uint8))
    (tmp_path / "a.tar").write_bytes(tar_of({"a.mp4": film, "a.txt": b"black", "b.txt": b"?"}))
    code, out, err = rushes(capsys, "data", "index", str(tmp_path))
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{tmp_path}: 1 clips of 1 shards indexed, 0 without a caption, 1 left out",
        "a.tar: b: no frames, wanted them in one mp4, npz or npy",
        f"all that was left out: {tmp_path}/left-out.txt",
    ]
    assert rushes(capsys, "data", "validate", str(tmp_path))[0] == 0


def test_buckets_of_strangers_clips_are_shown_and_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    film = mp4_of(np.zeros((4, 32, 48, 3), np.uint8))
    (tmp_path / "a.tar").write_bytes(tar_of({"a.mp4": film, "b.mp4": film}))
    buckets = ("--bucket", "3x16x24@8", "--bucket", "2x24x16@8")
    assert rushes(capsys, "data", "index", str(tmp_path), *buckets)[0] == 0
    code, out, err = rushes(capsys, "data", "validate", str(tmp_path))
    assert (code, err) == (0, "")
    for words in ("2 in 1 shards", "windowed    2", "16 x 24"):
        assert words in out
    picture = tmp_path / "clips.png"
    code, out, err = rushes(capsys, "data", "show", str(tmp_path), "--out", str(picture))
    assert (code, err) == (0, "")
    assert "16 x 24" in out
    assert picture.exists()


def test_what_is_no_bucket_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = rushes(capsys, "data", "index", str(tmp_path), "--bucket", "16x256@8")
    assert (code, out) == (2, "")
    assert err == (
        "rushes: --bucket: seen '16x256@8', wanted FRAMESxHEIGHTxWIDTH@FPS as in 17x256x256@8\n"
    )


def test_show_draws_clips_of_every_shape(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_source(str(tmp_path / "clips"), {SHORT: 3, STILL: 9})
    picture = tmp_path / "new" / "clips.png"
    args = ("data", "show", str(tmp_path / "clips"), "--out", str(picture), "--clips", "4")
    code, out, err = rushes(capsys, *args)
    assert (code, err) == (0, "")
    assert "25.0%" in out
    assert out.splitlines()[-1] == str(picture)
    with PIL.Image.open(picture) as image:
        shown_HWC = np.asarray(image.convert("RGB"))
    # A margin of 12, a title of 36, captions of 22, 2 between frames, 12 between clips.
    height = 36 + 256 + 22 + 12
    strip = 3 * 128 + 2 * 2  # frames of 16 x 8, enlarged to 256 x 128
    assert shown_HWC.shape == (2 * height, 12 + 3 * (strip + 12) - 2 + 12, 3)
    for clip in range(4):
        left = 12 + clip * 268
        assert shown_HWC[36 : 36 + 256, left : left + 256].std() > 30
    for clip in range(3):
        for frame in range(3):
            left = 12 + clip * (strip + 12) + frame * 130
            tile = shown_HWC[height + 36 : height + 36 + 256, left : left + 128]
            assert tile.std() > 30


def test_show_draws_the_shapes_with_most_clips(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clips = str(tmp_path / "clips")
    write_source(clips, {(1, 8, 8 + side): 1 + (side > 0) for side in range(21)})
    code, out, _ = rushes(capsys, "data", "show", clips, "--out", str(tmp_path / "clips.png"))
    assert code == 0
    assert out.splitlines()[-2] == "drawn: the 20 shapes with most clips, of 21"


def test_a_damaged_clip_is_not_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    index = write_source(str(tmp_path), {STILL: 2})
    flip_bit(index.store, index.shards[0], offset=index.sample(0).members[0].offset)
    picture = tmp_path / "clips.png"
    code, _, err = rushes(capsys, "data", "show", str(tmp_path), "--out", str(picture))
    assert code == 2
    assert "is damaged" in err
    assert not picture.exists()


def test_a_source_without_an_index_says_what_to_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    index = write_source(str(tmp_path), {STILL: 1})
    for name in (HEAD, TABLE):
        index.store.delete(name)
    code, _, err = rushes(capsys, "data", "validate", str(tmp_path))
    assert code == 2
    assert f"run: rushes data index {tmp_path}" in err


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from orchestrator.__main__ import main; "
        "sys.argv = ['rushes', 'data', '--help']; code = main(); "
        "heavy = {'torch', 'ray', 'pyarrow', 'numpy', 'av'} & set(sys.modules); "
        "print(heavy, file=sys.stderr) if heavy else None; sys.exit(code or len(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for command in ("index", "validate", "show"):
        assert command in done.stdout
