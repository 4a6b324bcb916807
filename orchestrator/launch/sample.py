"""`rushes sample`: prompts to video files, from a finished run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from orchestrator.errors import UserError
from orchestrator.launch.run_folder import open_run
from orchestrator.recipe.train import Clip
from orchestrator.train.sampling import load_sampler
from orchestrator.train.start import read_start
from orchestrator.train.varied import NO_WISH, Wish, vary
from orchestrator.train.video import same_size, sheet, write_gif, write_mp4

MOST_CLIPS = 16  # sampled at once
MOST_PIXELS = 16_000_000  # of the clips sampled at once, in the last network's size
ON_A_SHEET = 20  # clips beside each other in one picture
STAGE_ROWS = 6  # prompts in the picture of all networks


def read_prompts(prompts: Sequence[str], *, file: Path | None) -> list[str]:
    """Prompts of the command line, then one a line of the file.

    Raises:
        UserError: if there are none, or the file cannot be read.
    """
    texts = list(prompts)
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise UserError(f"--prompts {file}: {error.strerror}") from None
        texts += [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError("PROMPT: none given, wanted at least one, or --prompts FILE")
    return texts


def sample_run(
    uri: str,
    prompts: Sequence[str],
    *,
    out: Path,
    seed: int,
    npz: bool,
    distilled: bool,
    on_clips: Callable[[int], None],
    wish: Wish = NO_WISH,
) -> list[Path]:
    """Samples every prompt and writes NNNN.mp4 and NNNN.gif (and NNNN.npz) by prompt number.

    A cascade also gets stages.mp4, stages.gif and stages.png: what each network made, side by side.
    Several prompts also get sheet.mp4, sheet.gif and sheet.png: the first 20 beside each other.
    Every clip starts from the first frame of ``wish.image`` or all of ``wish.extend``, if given.

    Raises:
        UserError: if the run is not finished, the folder cannot be written, or the frames cannot
            be read or taken.
    """
    store, recipe = open_run(uri)
    if recipe.result is None:
        raise UserError(f"recipe {recipe.name} trains no denoiser, so there is nothing to sample")
    start = None
    if recipe.result.latents is not None:
        start = read_start(recipe.result, image=wish.image, extend=wish.extend)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = load_sampler(
        store, recipe, stage=recipe.result.id, distilled=distilled, device=device
    )
    if wish != NO_WISH and start is None:
        sampler = vary(sampler, wish, recipe=recipe)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from None
    clips_of = [recipe.stage(name).training.clip for name in sampler.networks]
    made = sampler.sample(
        prompts, seed=seed, batch=batch_of(clips_of), start=start, on_clips=on_clips
    )
    clips, fps = made[sampler.networks[-1]], sampler.fps
    paths = [
        path
        for number, clip in enumerate(clips)
        for path in _write(clip, out / f"{number:04d}", fps=fps, npz=npz)
    ]
    if len(made) > 1:
        paths += _write_stages(made, prompts, out, fps=fps)
    if len(clips) > 1:
        some = list(clips[:ON_A_SHEET])
        shown = sheet(some, captions=prompts[: len(some)], fps=fps, columns=min(4, len(some)))
        paths += _write_sheet(shown, out / "sheet")
    return paths


def batch_of(clips: Sequence[Clip]) -> int:
    """How many clips to sample at once.

    Args:
        clips: of every network in sampling order. A network of single frames takes as many as
            the longest clip before it has.
    """
    height, width = clips[-1].size
    pixels = max(clip.frames for clip in clips) * height * width
    return max(1, min(MOST_CLIPS, MOST_PIXELS // pixels))


def _write_stages(
    made: Mapping[str, np.ndarray], prompts: Sequence[str], out: Path, *, fps: float
) -> list[Path]:
    """A row per prompt, a column per network: what each made of the one before."""
    rows = range(min(STAGE_ROWS, len(prompts)))
    tiles = [tile for row in rows for tile in same_size([clips[row] for clips in made.values()])]
    captions = [f"{name}: {prompts[row]}" for row in rows for name in made]
    shown = sheet(tiles, captions=captions, fps=fps, columns=len(made))
    return _write_sheet(shown, out / "stages")


def _write_sheet(shown: Mapping[str, bytes], stem: Path) -> list[Path]:
    paths = [stem.with_suffix(f".{kind}") for kind in shown]
    for path, content in zip(paths, shown.values(), strict=True):
        path.write_bytes(content)
    return paths


def _write(clip: np.ndarray, stem: Path, *, fps: float, npz: bool) -> list[Path]:
    mp4, gif = stem.with_suffix(".mp4"), stem.with_suffix(".gif")
    write_mp4(mp4, clip, fps=fps)
    write_gif(gif, clip, fps=fps)
    if not npz:
        return [mp4, gif]
    frames = stem.with_suffix(".npz")
    np.savez_compressed(frames, frames=clip)
    return [mp4, gif, frames]
