"""Members as arrays, by their extension."""

import io

import av
import numpy as np
import pytest

from orchestrator.data.decode import decode, is_array, npy_bytes, npz_bytes

SHADES = (16, 90, 160, 235)


def mp4_of(frames_THWC: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.bit_rate = 4_000_000
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


@pytest.fixture
def film() -> np.ndarray:
    """Frames [T, H, W, 3] of one shade each."""
    shades = np.array(SHADES, dtype=np.uint8)
    return np.broadcast_to(shades[:, None, None, None], (len(SHADES), 32, 48, 3)).copy()


def test_mp4_gives_its_frames(film: np.ndarray) -> None:
    frames = decode({"mp4": mp4_of(film)})["frames"]
    assert frames.dtype == np.uint8
    assert frames.shape == film.shape
    # A lossy codec and a change of colour space, on flat frames: a few shades.
    assert np.abs(frames.astype(int) - film.astype(int)).max() <= 6


def test_arrays_keep_their_names() -> None:
    frames = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    latent = np.linspace(0, 1, 5, dtype=np.float32)
    arrays = decode(
        {"npz": npz_bytes(frames=frames, mask=latent > 0.5), "latent.npy": npy_bytes(latent)}
    )
    assert set(arrays) == {"frames", "mask", "latent"}
    np.testing.assert_array_equal(arrays["frames"], frames)
    np.testing.assert_array_equal(arrays["latent"], latent)


def test_only_json_is_no_array() -> None:
    assert [is_array(ext) for ext in ("npz", "text0.npy", "mp4", "json")] == [True] * 3 + [False]


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def claiming(elements: int) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "<f8", "fortran_order": False, "shape": (elements,)}
    )
    return head.getvalue()


@pytest.mark.parametrize(
    ("ext", "data", "told"),
    [
        ("npz", b"", "not an npz"),
        ("npz", b"nothing", "not an npz"),
        ("npz", npz_bytes(frames=np.zeros((4, 9, 9, 3), np.uint8))[:-30], "not an npz"),
        ("latent.npy", b"", "expected 8 bytes got 0"),
        ("latent.npy", b"nothing", "expected 8 bytes got 7"),
        ("latent.npy", npy_bytes(np.zeros(100))[:-1], "array"),
        ("latent.npy", pickled(), "Object arrays"),
        ("latent.npy", claiming(10**15), "not an npy"),
        ("mp4", b"", "not a video"),
        ("mp4", b"nothing", "not a video"),
        ("gif", b"GIF89a", r"member \.gif, wanted npz, npy or mp4"),
    ],
)
def test_member_that_cannot_be_read_is_a_value_error(ext: str, data: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        decode({ext: data})


def test_mp4_that_breaks_off_is_a_value_error(film: np.ndarray) -> None:
    whole = mp4_of(film)
    with pytest.raises(ValueError, match=r"not? .*video"):
        decode({"mp4": whole[: len(whole) // 2]})
