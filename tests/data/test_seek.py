"""Windows of videos: exactly the frames that decoding all would give, and little else decoded."""

import io
import os
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache

import av
import numpy as np
import pytest

from orchestrator.data import seek
from orchestrator.data.decode import decode
from orchestrator.data.fit import fit_to
from orchestrator.data.probe import probe
from orchestrator.data.seek import FramesAt, frames_at, pyav_frames, torchcodec_frames
from tests.data.films import film_of, number_of, numbered

FRAMES = 150
SIZE = (48, 128)
WINDOWS = 40
FAST = {"preset": "veryfast", "crf": "20", "threads": "1", "sc_threshold": "0"}
FILMS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "gop 24, B-frames": ("libx264", {**FAST, "g": "24", "bf": "2", "b_strategy": "0"}),
    "gop 250, B-frames": ("libx264", {**FAST, "g": "250", "bf": "2", "b_strategy": "0"}),
    "open gop": ("libx264", {**FAST, "g": "24", "bf": "3", "x264-params": "open-gop=1"}),
    "all intra": ("libx264", {**FAST, "g": "1", "bf": "0"}),
    "mpeg4": ("mpeg4", {"g": "12", "bf": "2", "b": "2000000"}),
    "mpeg2, open gop": ("mpeg2video", {"g": "12", "bf": "2", "b": "3000000"}),
    "h.265": (
        "libx265",
        {"preset": "ultrafast", "x265-params": "keyint=24:bframes=3:pools=1:log-level=none"},
    ),
    "vp9": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "5", "g": "24"}),
    "av1": ("libsvtav1", {"preset": "10", "g": "24"}),
}


@pytest.fixture(scope="module", params=FILMS)
def film(request: pytest.FixtureRequest) -> bytes:
    codec, options = FILMS[request.param]
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV is built without {codec}")
    # SVT-AV1 makes the thread of a superuser that opens it a real-time one, and children after it.
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        return film_of(numbered(FRAMES), codec=codec, options=options)
    finally:
        os.sched_setscheduler(0, policy, priority)


@pytest.fixture(params=["PyAV", "torchcodec"])
def read(request: pytest.FixtureRequest) -> FramesAt:
    if request.param == "PyAV":
        return pyav_frames
    if frames_at() is not torchcodec_frames:
        pytest.skip("torchcodec is not installed, or cannot be loaded")
    return torchcodec_frames


def windows() -> list[list[int]]:
    draw = random.Random(0)
    spans = [(draw.randint(1, 24), draw.randint(1, 6)) for _ in range(WINDOWS)]
    drawn = [(draw.randrange(FRAMES - (count - 1) * step), count, step) for count, step in spans]
    ends = [[0], [FRAMES - 1], list(range(FRAMES)), [23, 24, 25], [0, FRAMES - 1]]
    return ends + [[first + at * step for at in range(count)] for first, count, step in drawn]


def test_windows_are_the_frames_that_decoding_all_gives(film: bytes, read: FramesAt) -> None:
    whole = decode({"mp4": film})["frames"]
    assert [number_of(frame) for frame in whole] == list(range(FRAMES))
    for numbers in windows():
        frames = read(film, numbers=numbers, stored=FRAMES, fit=fit_to(SIZE, stored=SIZE))
        assert [number_of(frame) for frame in frames] == numbers
        if read is pyav_frames:
            np.testing.assert_array_equal(np.stack(frames), whole[numbers])


def test_torchcodec_reads_windows_by_itself(film: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    if frames_at() is not torchcodec_frames:
        pytest.skip("torchcodec is not installed, or cannot be loaded")
    fit = fit_to(SIZE, stored=SIZE)
    wanted = [pyav_frames(film, numbers=numbers, stored=FRAMES, fit=fit) for numbers in windows()]
    monkeypatch.setattr(seek, "pyav_frames", None)
    for numbers, by_pyav in zip(windows(), wanted, strict=True):
        frames = torchcodec_frames(film, numbers=numbers, stored=FRAMES, fit=fit)
        # Its conversion of colours may round another way.
        assert np.abs(np.stack(frames).astype(int) - np.stack(by_pyav)).max() <= 2


@cache
def gop_24() -> bytes:
    return film_of(numbered(FRAMES), options=FILMS["gop 24, B-frames"][1])


def packets_of(film: bytes) -> list[av.Packet]:
    with av.open(io.BytesIO(film)) as container:
        return [one for one in container.demux(video=0) if one.size]


def without(film: bytes, packets: Sequence[av.Packet]) -> bytes:
    """A film with zeros in place of some packets."""
    spoilt = bytearray(film)
    for packet in packets:
        assert packet.pos is not None
        spoilt[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    return bytes(spoilt)


def frames_of(film: bytes, numbers: list[int], *, stored: int = FRAMES) -> list[int]:
    frames = pyav_frames(film, numbers=numbers, stored=stored, fit=fit_to(SIZE, stored=SIZE))
    return [number_of(frame) for frame in frames]


def test_only_what_a_window_needs_is_decoded() -> None:
    packets = packets_of(gop_24())
    times = [packet.pts for packet in packets]
    assert times != sorted(times)  # there are frames that are decoded before they are shown
    assert [at for at, one in enumerate(packets) if one.is_keyframe][:4] == [0, 24, 48, 72]
    # Frame 60 comes out once the two after it are in.
    spoilt = without(gop_24(), packets[:48] + packets[64:])
    numbers = list(range(48, 61))
    assert frames_of(spoilt, numbers) == numbers
    with pytest.raises(ValueError, match=r"not a video|corrupt frames"):
        frames_of(spoilt, [30])


@pytest.mark.parametrize("lost", [48, 49])  # what all frames up to the next keyframe lean on
def test_damage_between_keyframe_and_window_is_a_value_error(lost: int) -> None:
    spoilt = without(gop_24(), packets_of(gop_24())[lost : lost + 1])
    with pytest.raises(ValueError, match=r"not a video|corrupt frames"):
        frames_of(spoilt, [65, 70])


def test_frames_that_an_edit_leaves_out_are_not_counted() -> None:
    left_out = 5
    at = gop_24().index(b"elst") + 4 + 8 + 4  # version and flags, count, duration
    media_time = int.from_bytes(gop_24()[at : at + 4], "big") + left_out * 512
    edited = gop_24()[:at] + media_time.to_bytes(4, "big") + gop_24()[at + 4 :]
    whole = [number_of(frame) for frame in decode({"mp4": edited})["frames"]]
    assert whole == list(range(left_out, FRAMES))
    stored = probe({"mp4": edited}).bucket[0]
    assert stored == len(whole)
    for numbers in ([0], [0, 20, 40], [30, 31], [stored - 1]):
        assert frames_of(edited, numbers, stored=stored) == [whole[one] for one in numbers]


def test_video_that_does_not_say_when_frames_are_shown_is_counted() -> None:
    film = film_of(numbered(60), options={**FAST, "bf": "2"}, container_format="h264")
    assert {packet.pts for packet in packets_of(film)} == {None}
    assert frames_of(film, [0, 7, 8, 59], stored=60) == [0, 7, 8, 59]


@pytest.mark.parametrize(
    ("film", "told"),
    [
        (lambda: b"", "not a video"),
        (lambda: b"nothing", "not a video"),
        (lambda: gop_24()[: len(gop_24()) // 2], "video"),
        (lambda: film_of(numbered(3)), "3 frames, wanted 150"),
    ],
)
def test_what_is_no_such_video_is_a_value_error(
    film: Callable[[], bytes], told: str, read: FramesAt
) -> None:
    with pytest.raises(ValueError, match=told):
        read(film(), numbers=[0, 1], stored=FRAMES, fit=fit_to(SIZE, stored=SIZE))


def test_frame_of_another_size_is_a_value_error(read: FramesAt) -> None:
    with pytest.raises(ValueError, match="a frame of 48x128 pixels, wanted 48x96"):
        read(gop_24(), numbers=[0], stored=FRAMES, fit=fit_to((48, 96), stored=(48, 96)))


def test_frame_that_comes_twice_in_a_window_is_there_twice(read: FramesAt) -> None:
    frames = read(gop_24(), numbers=[7, 7, 8], stored=FRAMES, fit=fit_to(SIZE, stored=SIZE))
    assert [number_of(frame) for frame in frames] == [7, 7, 8]
