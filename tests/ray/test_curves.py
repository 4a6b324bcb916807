"""Two Ray Train workers under ZeRO 3 follow the loss curve of the plain engine.

All of ZeRO's stages do so on two ranks that a test starts, see tests/numerics.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.numerics.test_recipe_curves import RELATIVE
from tests.ray.conftest import Head

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

WORKERS = "stages.autoencoder.compute.workers"
ZERO = "stages.autoencoder.compute.zero"


def curves(head: Head, recipe: Path, *args: str, **env: str) -> list[float]:
    run = recipe.parent / "-".join(["run", *args]).replace("=", "-")
    command = head.rushes("train", str(recipe), "--run", str(run), *args, **env)
    out, err = command.communicate(timeout=280)
    assert command.returncode == 0, out + err
    metrics = (run / "stages" / "autoencoder" / "metrics.jsonl").read_text()
    rows = [json.loads(line) for line in metrics.splitlines()]
    return [row[name] for row in rows for name in ("loss", "grad_norm/autoencoder")]


def test_two_workers_under_zero_3_train_as_the_plain_engine(head: Head, recipe_file: Any) -> None:
    recipe = recipe_file(steps=6)
    plain = curves(head, recipe, "--local", "--set", f"{WORKERS}=0")
    assert len(plain) == 12
    sharded = curves(head, recipe, "--set", f"{ZERO}=3", RAY_ADDRESS=head.gcs)
    assert sharded == pytest.approx(plain, rel=RELATIVE)  # justified where it is defined
