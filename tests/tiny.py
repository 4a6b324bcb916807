"""A recipe small enough for a test: every stage, in seconds."""

from pathlib import Path
from typing import Any

import yaml

from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe

STEPS = 6


def tiny_tree(folder: Path | str, *, workers: int = 0, zero: int = 1) -> dict[str, Any]:
    """The recipe as a tree; runs and clips below ``folder`` (a path or a URI)."""
    compute = f"{{workers: {workers}, zero: {zero}}}"
    return yaml.safe_load(f"""
version: 1
name: tiny
runs: {folder}/runs
data:
  train: {{uri: {folder}/clips/train, digits: {{clips: 24}}}}
  eval: {{uri: {folder}/clips/eval, digits: {{clips: 8}}}}
text: {{kind: byt5, width: 16, depth: 1, heads: 2}}
tracking: {{uri: "sqlite:///{folder}/mlflow.db"}}
stages:
  - id: autoencoder
    train:
      model:
        {{kind: video_autoencoder, latent_channels: 4, width: 8, patch: 4, width_mults: [1, 1, 1],
          blocks: 1}}
      objective:
        {{kind: autoencoder, l2: 1.0,
          adversarial: {{start_step: 3, weight: 0.05, width: 4, layers: 2}}}}
      clip: {{frames: 9, size: [32, 32]}}
      steps: {STEPS}
      batch: 4
      micro_batch: 2
      optim: {{lr: 1.0e-3, warmup_steps: 2, schedule: cosine}}
      ema: 0.5
      log_every: 1
    compute: {compute}
    save: {{every_steps: 2, keep: 2}}
  - id: encode
    encode: {{autoencoder: autoencoder, batch: 8}}
  - id: dit
    latents: encode
    train:
      model: {{kind: video_dit, depth: 2, width: 32, heads: 2, patch: [1, 2, 2],
               condition_frames: true}}
      objective: {{kind: flow}}
      clip: {{frames: 9, size: [32, 32]}}
      steps: {STEPS}
      batch: 4
      micro_batch: 2
      image_share: 0.34
      caption_drop: 0.2
      condition_share: 0.5
      optim: {{lr: 1.0e-3, warmup_steps: 2, schedule: cosine}}
      ema: 0.5
      log_every: 1
      preview:
        prompts: [a red three moving left]
        every_steps: 6
      sampler: {{kind: euler, steps: 2, guidance: {{scale: 2.0}}}}
    compute: {compute}
    save: {{every_steps: 2, keep: 2}}
  - id: evaluate
    evaluate: {{model: dit, prompts: 4, batch: 4}}
""")


def tiny_recipe(folder: Path | str, *, workers: int = 0, zero: int = 1) -> Recipe:
    """The recipe, checked."""
    return parse_recipe(tiny_tree(folder, workers=workers, zero=zero), origin="tiny")
