"""`rushes sample`: prompts to video files, from a finished run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from orchestrator.errors import UserError
from orchestrator.launch.run_folder import open_run
from orchestrator.train.pipeline import load_chain
from orchestrator.train.sampling import denoiser_stage, sample_clips
from orchestrator.train.video import sheet, write_gif, write_mp4

BATCH = 16  # clips sampled at once
ON_A_SHEET = 20  # clips beside each other in one picture


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

    Several prompts also get sheet.mp4, sheet.gif and sheet.png: the first 20 beside each other.

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
    fps = train.clip.fps
    paths = [
        path
        for number, clip in enumerate(clips)
        for path in _write(clip, out / f"{number:04d}", fps=fps, npz=npz)
    ]
    if len(clips) == 1:
        return paths
    some = list(clips[:ON_A_SHEET])
    shown = sheet(some, captions=prompts[: len(some)], fps=fps, columns=min(4, len(some)))
    for kind, content in shown.items():
        paths.append(out / f"sheet.{kind}")
        paths[-1].write_bytes(content)
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
