"""`rushes sample`: prompts to video files, from a finished run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from orchestrator.errors import UserError
from orchestrator.launch.run_folder import open_run
from orchestrator.train.pipeline import load_chain
from orchestrator.train.sampling import denoiser_stage, sample_clips
from orchestrator.train.video import write_gif, write_mp4

BATCH = 16  # clips sampled at once


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
    on_clips: Callable[[int], None],
) -> list[Path]:
    """Samples every prompt and writes NNNN.mp4 and NNNN.gif (and NNNN.npz) by prompt number.

    Raises:
        UserError: if the run is not finished or the folder cannot be written.
    """
    store, recipe = open_run(uri)
    try:
        stage = denoiser_stage(recipe)
    except ValueError as error:
        raise UserError(str(error)) from None
    train = recipe.stage(stage).training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chain = load_chain(store, recipe, stage=stage, device=device)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}") from None
    clips = sample_clips(chain, prompts, train=train, seed=seed, batch=BATCH, on_clips=on_clips)
    return [
        path
        for number, clip in enumerate(clips)
        for path in _write(clip, out / f"{number:04d}", fps=train.clip.fps, npz=npz)
    ]


def _write(clip: np.ndarray, stem: Path, *, fps: float, npz: bool) -> list[Path]:
    mp4, gif = stem.with_suffix(".mp4"), stem.with_suffix(".gif")
    write_mp4(mp4, clip, fps=fps)
    write_gif(gif, clip, fps=fps)
    if not npz:
        return [mp4, gif]
    frames = stem.with_suffix(".npz")
    np.savez_compressed(frames, frames=clip)
    return [mp4, gif, frames]
