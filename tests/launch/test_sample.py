"""`rushes sample`: how many clips fit at once, which files are written, and when."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from orchestrator.launch import sample as sample_module
from orchestrator.launch.sample import batch_of, sample_run
from orchestrator.recipe.train import Clip
from orchestrator.train.sampling import Videos
from tests.cascades import imagen_recipe

PROMPTS = ["a red three", "nine", "a blue one"]


class FlatClips:
    """A sampler of two networks whose frames have one colour each, in batches of two."""

    networks = ("base", "ssr2")
    rates = (2.0, 8.0)
    fps = 8.0

    def __init__(self, out: Path) -> None:
        self._out = out
        self.written: list[list[str]] = []  # before each batch

    def batches(
        self, prompts: Sequence[str], *, seed: int, batch: int, start: None
    ) -> Iterator[dict[str, Videos]]:
        for first in range(0, len(prompts), 2):
            self.written.append(sorted(path.name for path in self._out.iterdir()))
            rows = range(first, min(first + 2, len(prompts)))
            yield {
                "base": np.stack([flat(row, frames=2, side=4, blue=0) for row in rows]),
                "ssr2": np.stack([flat(row, frames=8, side=16, blue=200) for row in rows]),
            }


def flat(prompt: int, *, frames: int, side: int, blue: int) -> Videos:
    """Red tells the prompt, green the time."""
    clip = np.full((frames, side, side, 3), blue, np.uint8)
    clip[..., 0] = 60 * prompt + 40
    clip[..., 1] = (np.arange(frames) * 240 // frames)[:, None, None]
    return clip


def frames_of(path: Path) -> Videos:
    with av.open(str(path)) as container:
        return np.stack([one.to_ndarray(format="rgb24") for one in container.decode(video=0)])


@pytest.fixture
def sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[FlatClips, list[Path]]:
    recipe, sampler = imagen_recipe(tmp_path), FlatClips(tmp_path / "out")
    monkeypatch.setattr(sample_module, "open_run", lambda uri: (None, recipe))
    monkeypatch.setattr(sample_module, "load_sampler", lambda *_, **__: sampler)
    counts: list[int] = []
    paths = sample_run(
        "run",
        PROMPTS,
        out=tmp_path / "out",
        seed=1,
        npz=False,
        distilled=True,
        on_clips=counts.append,
    )
    assert counts == [2, 3]
    return sampler, paths


def test_files_of_a_batch_are_written_before_the_next(
    sampled: tuple[FlatClips, list[Path]],
) -> None:
    sampler, paths = sampled
    assert sampler.written == [[], ["0000.gif", "0000.mp4", "0001.gif", "0001.mp4"]]
    assert [path.name for path in paths] == [
        *(f"{number:04d}.{kind}" for number in range(3) for kind in ("mp4", "gif")),
        *(f"{name}.{kind}" for name in ("stages", "sheet") for kind in ("mp4", "gif", "png")),
    ]
    assert all(path.stat().st_size for path in paths)


def test_the_picture_of_all_networks_has_a_row_per_prompt_and_a_column_per_network(
    sampled: tuple[FlatClips, list[Path]],
) -> None:
    (stages,) = (path for path in sampled[1] if path.name == "stages.mp4")
    frames_THWC = frames_of(stages)
    assert frames_THWC.shape == (8, 3 * 280 - 2, 2 * 258 - 2, 3)
    for row in range(3):
        base = flat(row, frames=2, side=4, blue=0)[np.arange(8) // 4]
        last = flat(row, frames=8, side=16, blue=200)
        for column, clip in enumerate((base, last)):
            inner = frames_THWC[:, 280 * row + 20 :][:, :200, 258 * column + 20 :][:, :, :200]
            found_TC = inner.astype(float).mean(axis=(1, 2))
            # Flat colours come back from 4:2:0 within a few levels of 255.
            np.testing.assert_allclose(found_TC, clip[:, 0, 0], atol=8)


def test_the_sheet_shows_results_in_order(sampled: tuple[FlatClips, list[Path]]) -> None:
    (sheet,) = (path for path in sampled[1] if path.name == "sheet.mp4")
    first_HWC = frames_of(sheet)[0]
    assert first_HWC.shape == (278, 3 * 258 - 2, 3)
    reds = [first_HWC[20:200, 258 * column + 20 :][:, :200, 0].mean() for column in range(3)]
    np.testing.assert_allclose(reds, [40, 100, 160], atol=8)


def test_large_clips_are_sampled_one_by_one() -> None:
    small = Clip(frames=9, size=(32, 32))
    long, large = Clip(frames=76, size=(64, 64)), Clip(frames=1, size=(768, 768))
    assert batch_of([small]) == 16
    assert batch_of([Clip(frames=16, size=(512, 512))]) == 3
    assert batch_of([small, Clip(frames=128, size=(768, 1280))]) == 1
    # A network of single frames takes all frames of the clip before.
    assert batch_of([long, large]) == 1
