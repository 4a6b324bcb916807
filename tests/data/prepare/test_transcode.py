"""Clips as they are stored: the right frames, the right part of the picture, the same bytes."""

import io
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from av.video.reformatter import ColorRange, Colorspace

from orchestrator.data.decode import decode
from orchestrator.data.prepare.listing import list_source
from orchestrator.data.prepare.media import BrokenError
from orchestrator.data.prepare.records import Chosen, Listed
from orchestrator.data.prepare.transcode import encoded
from orchestrator.recipe.prepare import Bucket, Encoding
from tests.data.prepare.films import film, photo

SMALL = Bucket(frames=8, size=(32, 32), fps=8.0)
BEST = Encoding(crf=4)


def row_of(path: Path) -> Listed:
    (row,) = list_source(str(path.parent), target="/nowhere").rows
    return row


def stored(
    row: Listed, starts_s: Sequence[float], *, bucket: Bucket, encoding: Encoding = BEST
) -> list[tuple[str, bytes]]:
    clips = [
        Chosen(
            f"{row.key}-{number:05d}",
            video=row.key,
            start_s=start_s,
            end_s=start_s + bucket.duration_s,
            bucket=0,
            frames=bucket.frames,
        )
        for number, start_s in enumerate(starts_s)
    ]
    made = list(encoded(row, clips, buckets=[bucket], encoding=encoding))
    assert [clip for clip, _, _ in made] == clips
    return [(ext, data) for _, ext, data in made]


def numbered(number: int) -> np.ndarray:
    """A picture with a number in it: eight rows of blocks, bright where its bit is set."""
    rows = [230 if number >> bit & 1 else 20 for bit in range(8)]
    return np.broadcast_to(np.repeat(rows, 8)[:, None, None], (64, 96, 3)).astype(np.uint8)


def numbers_in(frames_THWC: np.ndarray) -> list[int]:
    """The numbers in pictures of any size."""
    rows_T8 = frames_THWC.mean((2, 3)).reshape(len(frames_THWC), 8, -1).mean(2)
    return [sum(1 << bit for bit in range(8) if row[bit] > 125) for row in rows_T8]


def counting_film(path: Path, *, frames: int, fps: int, **options: str) -> Path:
    """Every frame has its number in it."""
    return film(path, [(numbered(number) for number in range(frames))], fps=fps, **options)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_frames_are_those_that_are_shown_at_the_buckets_rate(tmp_path: Path, name: str) -> None:
    row = row_of(counting_film(tmp_path / name, frames=60, fps=24))
    (ext, first), (_, second) = stored(row, (0.0, 1.25), bucket=SMALL)
    assert ext == "mp4"
    for data, start in ((first, 0), (second, 30)):
        frames_THWC = decode({"mp4": data})["frames"]
        assert frames_THWC.shape == (8, 32, 32, 3)
        assert numbers_in(frames_THWC) == [start + 3 * frame for frame in range(8)]


def test_a_rate_that_varies_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    times_ms = [0, 500, 600, 700, 1500, 1600, 2500]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(numbered(number)[:, :64].copy(), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    bucket = Bucket(frames=6, size=(32, 32), fps=4.0)
    ((_, data),) = stored(row_of(path), (0.0,), bucket=bucket)
    # At 0, 0.25, 0.5, 0.75, 1, 1.25 s.
    assert numbers_in(decode({"mp4": data})["frames"]) == [0, 0, 1, 3, 3, 3]


def test_the_middle_of_the_picture_is_kept(tmp_path: Path) -> None:
    picture = np.zeros((64, 192, 3), dtype=np.uint8)
    picture[:, :64] = (250, 0, 0)
    picture[:, 64:128] = (0, 200, 0)
    picture[:, 128:] = (0, 0, 250)
    row = row_of(film(tmp_path / "a.mp4", [iter([picture] * 24)]))
    ((_, data),) = stored(row, (0.0,), bucket=SMALL)
    frame_HWC = decode({"mp4": data})["frames"][0].astype(int)
    inside = frame_HWC[4:-4, 4:-4].reshape(-1, 3)
    assert np.abs(inside - np.array([0, 200, 0])).max() < 25


def test_colours_of_high_definition_come_through(tmp_path: Path) -> None:
    colour = np.array([40, 170, 90])
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        for _ in range(24):
            picture = np.broadcast_to(colour.astype(np.uint8), (64, 64, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="itu709")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    ((_, data),) = stored(row_of(path), (0.0,), bucket=SMALL)
    frames_THWC = decode({"mp4": data})["frames"].astype(int)
    assert np.abs(frames_THWC.reshape(-1, 3) - colour).max() <= 6


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    row = row_of(counting_film(tmp_path / "a.mp4", frames=48, fps=24))
    once, again = (stored(row, (0.0, 1.0), bucket=SMALL) for _ in range(2))
    assert once == again


def test_groups_of_pictures_are_short_and_the_index_is_in_front(tmp_path: Path) -> None:
    row = row_of(counting_film(tmp_path / "a.mp4", frames=60, fps=24))
    bucket = Bucket(frames=50, size=(32, 32), fps=24.0)
    ((_, data),) = stored(row, (0.0,), bucket=bucket, encoding=Encoding(gop=10))
    with av.open(io.BytesIO(data)) as container:
        keys = [number for number, one in enumerate(container.decode(video=0)) if one.key_frame]
        assert float(container.streams.video[0].average_rate) == 24.0
    assert max(b - a for a, b in zip(keys, [*keys[1:], 50], strict=True)) <= 10
    assert data.index(b"moov") < data.index(b"mdat")


def test_an_image_is_stored_without_loss(tmp_path: Path) -> None:
    row = row_of(photo(tmp_path / "a.png", 3, size=(40, 60)))
    bucket = Bucket(frames=1, size=(40, 50))
    ((ext, data),) = stored(row, (0.0,), bucket=bucket)
    frames_THWC = decode({ext: data})["frames"]
    wanted = np.asarray(PIL.Image.open(tmp_path / "a.png"))[:, 5:55]
    assert ext == "npz"
    np.testing.assert_array_equal(frames_THWC[0], wanted)


def test_a_film_that_becomes_smaller_than_its_bucket_is_not_enlarged(tmp_path: Path) -> None:
    large, small = (
        film(tmp_path / "parts" / name, [iter([picture] * 24)], codec="mpeg2video").read_bytes()
        for name, picture in (("a.mpg", numbered(7)), ("b.mpg", numbered(7)[:16, :32]))
    )
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.mpg").write_bytes(large + small)
    row = row_of(tmp_path / "raw" / "a.mpg")
    assert len(stored(row, (0.0,), bucket=SMALL.model_copy(update={"fps": 16.0}))) == 1
    with pytest.raises(BrokenError, match="a frame has 16x32 pixels, wanted at least 32x32"):
        stored(row, (0.0,), bucket=SMALL.model_copy(update={"frames": 15}))
