"""`rushes sample`: prompts to video files, from a finished run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from orchestrator.errors import UserError
from orchestrator.launch.run_folder import open_run
from orchestrator.recipe.train import Clip
from orchestrator.train.sampling import Sampler, Videos, load_sampler
from orchestrator.train.sheets import same_size, sheet, tile
from orchestrator.train.start import read_start
from orchestrator.train.token_group import sampling_ranks, token_group
from orchestrator.train.varied import NO_WISH, Wish, vary
from orchestrator.train.video import Pixels, write_gif, write_mp4

MOST_CLIPS = 16  # sampled at once
MOST_PIXELS = 16_000_000  # of the clips sampled at once, in the last network's size
ON_A_SHEET = 20  # clips beside each other in one picture
STAGE_ROWS = 6  # prompts in the picture of all networks


class _Shown:
    """Tiles of the first clips, for the pictures of several."""

    def __init__(self, sampler: Sampler) -> None:
        self._networks, self._rates = sampler.networks, sampler.rates
        self._results: list[Pixels] = []
        self._rows: list[list[Pixels]] = []

    def add(self, made: Mapping[str, Videos]) -> None:
        """Takes what is shown of a finished batch."""
        room = ON_A_SHEET - len(self._results)
        self._results += [tile(clip) for clip in made[self._networks[-1]][:room]]
        if len(made) > 1:
            room = STAGE_ROWS - len(self._rows)
            rows = list(zip(*made.values(), strict=True))[:room]
            self._rows += [same_size(row, fps=self._rates) for row in rows]

    def write(self, prompts: Sequence[str], out: Path) -> list[Path]:
        """Writes stages.*, a row per prompt and a column per network, and sheet.*."""
        paths: list[Path] = []
        if self._rows:
            names = self._networks
            paths += _write_sheet(
                sheet(
                    [one for row in self._rows for one in row],
                    captions=[
                        f"{name}: {prompts[row]}"
                        for row in range(len(self._rows))
                        for name in names
                    ],
                    fps=max(self._rates),
                    columns=len(names),
                ),
                out / "stages",
            )
        if len(prompts) > 1:
            some = self._results
            shown = sheet(
                some,
                captions=prompts[: len(some)],
                fps=self._rates[-1],
                columns=min(4, len(some)),
            )
            paths += _write_sheet(shown, out / "sheet")
        return paths


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
    A batch's files are written as soon as it is done.
    Every clip starts from the first frame of ``wish.image`` or all of ``wish.extend``, if given.
    Processes that torchrun starts share the tokens of every clip; the first of them writes.

    Raises:
        UserError: if the run is not finished, the folder cannot be written, the frames cannot be
            read or taken, or several processes have no tokens to share.
    """
    store, recipe = open_run(uri)
    if recipe.result is None:
        raise UserError(f"recipe {recipe.name} trains no denoiser, so there is nothing to sample")
    start = None
    if recipe.result.latents is not None:
        start = read_start(recipe.result, image=wish.image, extend=wish.extend)
        wish = replace(wish, image=None, extend=None)  # granted
    ranks = sampling_ranks(recipe.result)
    sampler = load_sampler(
        store,
        recipe,
        stage=recipe.result.id,
        distilled=distilled,
        device=ranks.device,
        group=token_group(ranks),
    )
    if wish != NO_WISH:
        sampler = vary(sampler, wish, recipe=recipe)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from None
    clips_of = [recipe.stage(name).training.clip for name in sampler.networks]
    paths: list[Path] = []
    shown, done = _Shown(sampler), 0
    for made in sampler.batches(prompts, seed=seed, batch=batch_of(clips_of), start=start):
        if ranks.rank:  # it has helped to make what rank 0 has too
            continue
        for clip in made[sampler.networks[-1]]:
            paths += _write(clip, out / f"{done:04d}", fps=sampler.fps, npz=npz)
            done += 1
        shown.add(made)
        on_clips(done)
    return paths if ranks.rank else paths + shown.write(prompts, out)


def batch_of(clips: Sequence[Clip]) -> int:
    """How many clips to sample at once.

    Args:
        clips: of every network in sampling order. A network of single frames takes as many as
            the longest clip before it has.
    """
    height, width = clips[-1].size
    pixels = max(clip.frames for clip in clips) * height * width
    return max(1, min(MOST_CLIPS, MOST_PIXELS // pixels))


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
