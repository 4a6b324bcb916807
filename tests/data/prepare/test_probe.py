"""What is broken gets a row with its reason; what is whole is described as it is shown."""

from pathlib import Path

import av
import numpy as np
import PIL.Image
import pytest

from orchestrator.data.prepare.listing import list_source
from orchestrator.data.prepare.media import BrokenError, declared_s, decoded, image, opened
from orchestrator.data.prepare.probe import probe
from orchestrator.data.prepare.records import Listed, Probed
from orchestrator.errors import UserError
from orchestrator.storage.store import open_store
from tests.data.prepare.films import broken_films, film, one_scene, photo, scene


def rows_of(folder: Path) -> dict[str, Listed]:
    return {row.name: row for row in list_source(str(folder), target="/nowhere").rows}


def probed(path: Path) -> Probed:
    return probe(rows_of(path.parent)[path.name])


def test_every_broken_file_gets_a_row_with_its_reason(tmp_path: Path) -> None:
    reasons = broken_films(tmp_path)
    (tmp_path / "no.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a photo")
    found = {name: probe(row) for name, row in rows_of(tmp_path).items()}
    assert {name: row.reason for name, row in found.items()} == reasons | {"no.jpg": "broken"}
    assert all(row.detail for row in found.values())
    assert "breaks off after" in found["cut.mp4"].detail


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_a_whole_film_is_described(tmp_path: Path, name: str) -> None:
    row = probed(one_scene(tmp_path / name, 1, seconds=2.0))
    assert (row.reason, row.frames, row.height, row.width) == (None, 48, 96, 128)
    assert row.fps == pytest.approx(24, rel=1e-3)
    assert row.duration_s == pytest.approx(2.0, abs=2e-3)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.avi", "mpeg4"), ("a.mpg", "mpeg2video"), ("a.webm", "libvpx-vp9")]
)
def test_other_codecs_are_read(tmp_path: Path, name: str, codec: str) -> None:
    row = probed(film(tmp_path / name, [scene(1, frames=24)], codec=codec))
    assert (row.reason, row.frames) == (None, 24)


def test_a_matroska_file_that_ends_too_soon_is_broken(tmp_path: Path) -> None:
    path = one_scene(tmp_path / "a.mkv", 1, seconds=6.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    row = probed(path)
    assert row.reason == "broken"
    assert row.detail.startswith(("ends after", "breaks off"))


def test_a_film_is_measured_as_it_is_shown(tmp_path: Path) -> None:
    upright, wide = tmp_path / "upright.mp4", tmp_path / "wide.mp4"
    for path in (upright, wide):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=24)
            stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
            if path == upright:
                stream.set_display_rotation(90)
            else:
                stream.codec_context.sample_aspect_ratio = 2
            for picture in scene(1, frames=8):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode(None))
    assert (probed(upright).height, probed(upright).width) == (128, 96)
    assert (probed(wide).height, probed(wide).width) == (96, 256)
    frame = next(decoded(str(tmp_path), upright.name, size=upright.stat().st_size))
    turned = frame.picture(size=frame.size)
    stored = next(scene(1, frames=1)).astype(int)
    assert np.abs(np.rot90(stored, 1) - turned).mean() < 8


def test_an_image_is_measured_as_it_is_shown(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", 3, size=(30, 40))
    turned = PIL.Image.open(path)
    exif = turned.getexif()
    exif[0x0112] = 6  # orientation: a quarter to the right
    turned.save(tmp_path / "b.jpg", exif=exif)
    assert (probed(path).height, probed(path).width, probed(path).frames) == (30, 40, 1)
    assert (probed(tmp_path / "b.jpg").height, probed(tmp_path / "b.jpg").width) == (40, 30)


def test_what_shines_through_is_black(tmp_path: Path) -> None:
    clear = np.zeros((4, 4, 4), dtype=np.uint8)
    clear[..., 0] = 200
    clear[:2, :, 3] = 255
    PIL.Image.fromarray(clear).save(tmp_path / "a.png")
    size = (tmp_path / "a.png").stat().st_size
    pixels = image(str(tmp_path), "a.png", size=size)
    assert pixels[:2, :, 0].min() == 200
    assert pixels[2:].max() == 0


def test_captions_and_labels_beside_a_film_are_read(tmp_path: Path) -> None:
    path = one_scene(tmp_path / "a.mp4", 1, seconds=0.5)
    path.with_suffix(".json").write_text('{"caption": "in json", "place": "x"}')
    assert (probed(path).captions, probed(path).labels) == (("in json",), '{"place": "x"}')
    path.with_suffix(".txt").write_text(" a film \n")
    assert probed(path).captions == ("a film",)
    path.with_suffix(".json").write_text("nothing")
    assert (probed(path).reason, probed(path).detail) == ("caption", "json: not JSON")


def test_a_playlist_in_disguise_opens_nothing(tmp_path: Path) -> None:
    secret = one_scene(tmp_path / "secret.mp4", 1, seconds=0.5)
    (tmp_path / "a.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n")
    (tmp_path / "b.mp4").write_text(f"ffconcat version 1.0\nfile {secret.name}\n")
    assert {probed(tmp_path / name).reason for name in ("a.mp4", "b.mp4")} == {"broken"}


def test_an_object_is_read_in_parts(tmp_path: Path) -> None:
    path = one_scene(tmp_path / "a.mp4", 1, seconds=1.0)
    size = path.stat().st_size
    store = open_store("memory://prepare-media")
    store.put("a.mp4", path.read_bytes())
    here = [frame.raw.to_ndarray() for frame in decoded(str(tmp_path), "a.mp4", size=size)]
    there = [frame.raw.to_ndarray() for frame in decoded(store.uri, "a.mp4", size=size)]
    assert len(here) == 24
    assert all(np.array_equal(one, other) for one, other in zip(here, there, strict=True))
    assert declared_s(store.uri, "a.mp4", size=size) == pytest.approx(1.0)
    with opened(store.uri, "a.mp4", size=size) as file:
        file.seek(size - 3)
        assert file.read() == path.read_bytes()[-3:]
    with pytest.raises(UserError), opened(store.uri, "gone.mp4", size=9) as file:
        file.read(1)


def test_an_image_in_a_films_clothes_is_broken(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.png", 1)
    path.rename(tmp_path / "a.mp4")
    size = (tmp_path / "a.mp4").stat().st_size
    with pytest.raises(BrokenError):
        list(decoded(str(tmp_path), "a.mp4", size=size))
