"""`rushes sample --image` and `--extend`: clips that start from frames of a file."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from rich.console import Console

from orchestrator.errors import UserError
from orchestrator.launch.sample import sample_run
from orchestrator.launch.train import train
from orchestrator.recipe.load import load_recipe, parse_recipe
from orchestrator.train.pixels import to_uint8
from orchestrator.train.start import fitted, read_start, seen_frames
from orchestrator.train.varied import Wish
from orchestrator.train.video import write_gif, write_mp4
from tests.groups import leave_group
from tests.launch.test_cli import rushes
from tests.tiny import tiny_tree

JOBS = Path(__file__).parents[2] / "jobs"
SIZE = (32, 32)
Frames = np.ndarray


def picture(seed: int, *, frames: int = 1, size: tuple[int, int] = SIZE) -> Frames:
    """Frames of smooth colours, [T, H, W, 3]."""
    few = np.random.default_rng(seed).integers(0, 256, (frames, 4, 4, 3), dtype=np.uint8)
    return few.repeat(size[0] // 4, axis=1).repeat(size[1] // 4, axis=2)


def save_png(file: Path, frames: Frames) -> Path:
    PIL.Image.fromarray(frames[0]).save(file)
    return file


def save_npz(file: Path, frames: Frames) -> Path:
    np.savez_compressed(file, frames=frames)
    return file


@pytest.fixture(scope="module")
def run_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run of a network with joint text that takes frames."""
    folder = tmp_path_factory.mktemp("joint")
    tree = tiny_tree(folder)
    tree["stages"] = [stage for stage in tree["stages"] if stage["id"] != "evaluate"]
    tree["stages"][-1]["train"]["model"] |= {"text_fusion": "joint", "depth": 1, "single_depth": 1}
    recipe = parse_recipe(tree, origin="tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "home"))
        train(recipe, run=None, local=True, console=Console(file=io.StringIO()))
    leave_group()
    return f"{folder}/runs/tiny"


def sampled(run_uri: str, out: Path, **files: Path) -> Frames:
    sample_run(
        run_uri,
        ["a red three moving left"],
        out=out,
        seed=1,
        npz=True,
        distilled=True,
        on_clips=lambda _: None,
        wish=Wish(**files),
    )
    with np.load(out / "0000.npz") as found:
        return found["frames"]


@pytest.mark.slow
def test_an_image_is_the_first_frame_and_decides_the_rest(run_uri: str, tmp_path: Path) -> None:
    clips = []
    for seed in (1, 2):
        image = save_png(tmp_path / f"{seed}.png", picture(seed))
        clips.append(sampled(run_uri, tmp_path / str(seed), image=image))
        assert clips[-1].shape == (9, *SIZE, 3)
        np.testing.assert_array_equal(clips[-1][0], picture(seed)[0])
    assert (clips[0][1:] != clips[1][1:]).any()


@pytest.mark.slow
def test_a_clip_is_kept_and_goes_on(run_uri: str, tmp_path: Path) -> None:
    before = picture(3, frames=7)
    clip = sampled(run_uri, tmp_path / "out", extend=save_npz(tmp_path / "clip.npz", before))
    assert clip.shape == (7 + 9 - 5, *SIZE, 3)
    np.testing.assert_array_equal(clip[:7], before)


@pytest.mark.slow
def test_frames_are_not_put_between_beside_a_picture(run_uri: str, tmp_path: Path) -> None:
    image = save_png(tmp_path / "1.png", picture(1))
    with pytest.raises(UserError, match=r"--skip 3: .* has no interpolation network"):
        sample_run(
            run_uri,
            ["up"],
            out=tmp_path / "out",
            seed=1,
            npz=False,
            distilled=True,
            on_clips=lambda _: None,
            wish=Wish(image=image, skip=3),
        )


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--image", "--extend"])
def test_the_command_says_what_is_wrong_in_one_line(
    run_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    code, out, err = rushes(capsys, "sample", run_uri, "up", option, str(tmp_path / "none.png"))
    assert (code, out) == (2, "")
    assert err.splitlines() == [f"rushes: {option} {tmp_path}/none.png: No such file or directory"]


@pytest.mark.parametrize("length", range(1, 12))
def test_the_network_sees_whole_latent_frames_and_makes_new_ones(length: int) -> None:
    seen = seen_frames(length, frames=9, time_factor=4)
    assert seen % 4 == 1
    assert seen <= min(length, 8)


def test_a_frame_of_another_shape_is_cut_to_its_middle() -> None:
    wide = picture(4, size=(32, 64))
    np.testing.assert_array_equal(to_uint8(fitted(wide, size=SIZE))[0], wide[:, :, 16:48])
    assert fitted(picture(5, size=(120, 80)), size=SIZE).shape == (1, 3, 1, *SIZE)


@pytest.mark.parametrize(
    ("kind", "save"),
    [
        ("mp4", lambda file, frames: write_mp4(file, frames, fps=8, scale=1)),
        ("gif", lambda file, frames: write_gif(file, frames, fps=8, scale=1)),
        ("npz", save_npz),
        ("jpeg", save_png),
    ],
)
def test_every_kind_of_file_is_read(
    tmp_path: Path, kind: str, save: Callable[[Path, Frames], Any]
) -> None:
    stage = load_recipe(JOBS / "sora_debug_joint.yaml").stage("dit")
    frames = picture(6, frames=1 if kind == "jpeg" else 3)
    save(tmp_path / f"start.{kind}", frames)
    start = read_start(stage, image=None, extend=tmp_path / f"start.{kind}")
    assert start is not None
    # The lossy kinds blur colours where they meet; a wrong picture is off by far more.
    error = np.abs(to_uint8(start)[0].astype(int) - frames.astype(int)).mean()
    assert error < (40 if kind in ("mp4", "jpeg", "gif") else 0.5)
    assert start.shape == (1, 3, len(frames), *SIZE)


@pytest.mark.parametrize(
    ("recipe", "given", "reason"),
    [
        ("sora_debug", {"image": "a.png"}, r"--image .*a\.png: stages\.dit\.train\.model takes no"),
        ("sora_debug", {"extend": "a.npz"}, r"--extend .*a\.npz: stages\.dit\.train\.model"),
        ("sora_debug_joint", {"image": "a.png", "extend": "a.npz"}, "wanted one of them"),
        ("sora_debug_joint", {"image": "none.png"}, r"--image .*none\.png: No such file"),
        ("sora_debug_joint", {"image": "text.png"}, "cannot be read, wanted a PNG"),
        ("sora_debug_joint", {"extend": "text.mp4"}, "cannot be read, wanted a PNG"),
        ("sora_debug_joint", {"extend": "floats.npz"}, "holds no such frames"),
    ],
)
def test_what_cannot_be_taken_is_one_line(
    tmp_path: Path, recipe: str, given: dict[str, str], reason: str
) -> None:
    save_png(tmp_path / "a.png", picture(7))
    save_npz(tmp_path / "a.npz", picture(7))
    save_npz(tmp_path / "floats.npz", picture(7).astype(np.float32))
    for name in ("text.png", "text.mp4"):
        (tmp_path / name).write_text("no frames")
    files = {"image": None, "extend": None} | {k: tmp_path / name for k, name in given.items()}
    with pytest.raises(UserError, match=reason) as caught:
        read_start(load_recipe(JOBS / f"{recipe}.yaml").stage("dit"), **files)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
