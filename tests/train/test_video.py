"""Video files read back as a player would."""

import io
from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest
from av.video.reformatter import Colorspace
from numpy.typing import NDArray

from orchestrator.train.video import (
    mp4_bytes,
    png_bytes,
    still_png,
    viewing_scale,
    write_gif,
    write_mp4,
)

Pixels = NDArray[np.uint8]
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 70, 230)}


def moving_square(frames: int = 9, side: int = 32, *, colour: str = "red") -> Pixels:
    clip_THWC = np.full((frames, side, side, 3), 16, np.uint8)
    for frame in range(frames):
        clip_THWC[frame, 8:20, frame : frame + 12] = COLOURS[colour]
    return clip_THWC


def decoded(data: bytes) -> Pixels:
    with av.open(io.BytesIO(data)) as container:
        return np.stack([one.to_ndarray(format="rgb24") for one in container.decode(video=0)])


def shrunk(clip_THWC: Pixels, *, factor: int) -> NDArray[np.float64]:
    """Mean colour of every square of ``factor`` pixels."""
    frames, height, width, _ = clip_THWC.shape
    blocks = clip_THWC.reshape(frames, height // factor, factor, width // factor, factor, 3)
    return blocks.astype(np.float64).mean(axis=(2, 4))


@pytest.mark.parametrize("colour", list(COLOURS))
def test_a_small_clip_comes_back_enlarged_with_its_colours(colour: str) -> None:
    clip_THWC = moving_square(colour=colour)
    seen_THWC = decoded(mp4_bytes(clip_THWC, fps=8))
    assert seen_THWC.shape == (9, 256, 256, 3)
    # 4:2:0 at crf 16 moves the mean of an 8 x 8 square by a few levels of 255 at an edge.
    assert np.abs(shrunk(seen_THWC, factor=8) - clip_THWC).mean() < 3
    assert np.abs(shrunk(seen_THWC, factor=8) - clip_THWC).max() < 24


@pytest.mark.parametrize("fps", [8.0, 23.976, 30.0])
def test_the_file_plays_in_a_browser(tmp_path: Path, fps: float) -> None:
    path = tmp_path / "clip.mp4"
    write_mp4(path, moving_square(), fps=fps)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.colorspace == Colorspace.ITU601
        assert stream.frames == 9
        assert stream.average_rate is not None
        assert float(stream.average_rate) == pytest.approx(fps, rel=1e-4)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_path_text_and_buffer_get_the_same_file(tmp_path: Path) -> None:
    write_mp4(tmp_path / "one.mp4", moving_square(), fps=8)
    write_mp4(str(tmp_path / "two.mp4"), moving_square(), fps=8)
    one = (tmp_path / "one.mp4").read_bytes()
    assert one == (tmp_path / "two.mp4").read_bytes() == mp4_bytes(moving_square(), fps=8)


@pytest.mark.parametrize(("scale", "size"), [(1, (34, 50)), (2, (66, 98)), (None, (264, 392))])
def test_odd_sides_are_continued_by_a_pixel(scale: int | None, size: tuple[int, int]) -> None:
    clip_THWC = np.full((2, 33, 49, 3), 128, np.uint8)
    assert decoded(mp4_bytes(clip_THWC, fps=8, scale=scale)).shape[1:3] == size


def test_one_frame_is_a_video_too() -> None:
    assert decoded(mp4_bytes(moving_square(1), fps=8)).shape == (1, 256, 256, 3)


@pytest.mark.parametrize(
    ("size", "factor"), [((32, 32), 8), ((16, 64), 16), ((255, 300), 2), ((256, 256), 1)]
)
def test_small_clips_are_enlarged_to_be_seen(size: tuple[int, int], factor: int) -> None:
    assert viewing_scale(size) == factor


def test_a_gif_keeps_flat_colours_exactly_and_its_speed(tmp_path: Path) -> None:
    clip_THWC = moving_square()
    write_gif(tmp_path / "clip.gif", clip_THWC, fps=8, scale=2)
    with PIL.Image.open(tmp_path / "clip.gif") as image:
        assert image.n_frames == 9  # type: ignore[attr-defined]
        assert image.info["loop"] == 0
        frames = []
        for frame in range(9):
            image.seek(frame)
            assert image.info["duration"] == 120  # 12.5 hundredths cannot be said
            frames.append(np.asarray(image.convert("RGB")))
    expected = clip_THWC.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(np.stack(frames), expected)


def test_a_gif_of_many_colours_stays_close(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    frame_HWC = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(90)), axis=-1)
    write_gif(tmp_path / "clip.gif", np.stack([frame_HWC] * 2), fps=8, scale=1)
    with PIL.Image.open(tmp_path / "clip.gif") as image:
        seen_HWC = np.asarray(image.convert("RGB")).astype(int)
    # 256 colours on a 256 x 256 plane: cells of 16 levels, their middle at most 16 away.
    assert np.abs(seen_HWC - frame_HWC).mean() < 8


def test_a_still_is_exact(tmp_path: Path) -> None:
    frame_HWC = moving_square()[3]
    still_png(tmp_path / "still.png", frame_HWC, scale=3)
    still_png(tmp_path / "same.png", frame_HWC, scale=1)
    assert (tmp_path / "same.png").read_bytes() == png_bytes(frame_HWC)
    with PIL.Image.open(tmp_path / "still.png") as image:
        np.testing.assert_array_equal(
            np.asarray(image), frame_HWC.repeat(3, axis=0).repeat(3, axis=1)
        )


def test_wrong_input_says_what_it_saw() -> None:
    clip_THWC = moving_square()
    with pytest.raises(ValueError, match=r"clip float32 \[9, 32, 32, 3\], wanted uint8"):
        mp4_bytes(clip_THWC.astype(np.float32), fps=8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wanted at least one frame"):
        mp4_bytes(clip_THWC[:0], fps=8)
    with pytest.raises(ValueError, match="fps=0"):
        mp4_bytes(clip_THWC, fps=0)
