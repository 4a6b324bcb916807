"""A user's picture: read, cut to shape, or refused in one line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.errors import UserError
from orchestrator.launch.picture import read_picture
from orchestrator.train.varied import fitted
from orchestrator.train.video import write_mp4


def test_a_picture_is_read_as_its_pixels(tmp_path: Path) -> None:
    clip = np.full((2, 32, 48, 3), 200, np.uint8)
    write_mp4(tmp_path / "clip.mp4", clip, fps=4.0)
    picture = read_picture(tmp_path / "clip.mp4")
    assert picture.shape[0] * 3 == picture.shape[1] * 2  # small clips are written larger
    assert abs(int(picture.mean()) - 200) <= 3


def test_what_is_no_picture_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("none")
    for name in ("notes.png", "missing.png"):
        with pytest.raises(UserError, match=f"--image .*{name}: "):
            read_picture(tmp_path / name)


def test_the_middle_is_kept_and_nothing_is_stretched() -> None:
    picture = np.zeros((10, 30, 3), np.uint8)
    picture[:, 10:20] = 255
    assert torch.equal(fitted(picture, size=(10, 10)), torch.ones(3, 10, 10))
    assert fitted(picture, size=(4, 6)).shape == (3, 4, 6)
