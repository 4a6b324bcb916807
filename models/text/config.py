"""What a recipe says about the text encoder (no torch, no transformers)."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from models.config import Strict

CONFIG = "config.json"
# Of a frozen encoder's weights and states; auto: as its checkpoint has them. Not float16, in which
# T5's larger encoders overflow.
Dtype = Literal["auto", "bfloat16", "float32"]
WANTED = "a checkpoint folder, or a hub name org/name"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Byt5Config(Strict):
    """UTF-8 bytes and a small encoder that is trained along; needs no download."""

    kind: Literal["byt5"] = "byt5"
    width: PositiveInt = 64
    depth: PositiveInt = 2
    heads: PositiveInt = 4
    kernel: PositiveInt = 5  # bytes that the first layer sees at once; odd
    stride: Literal[1, 2, 4, 8] = 1  # bytes per token after the first layer
    max_length: PositiveInt = 64  # tokens, the end token included

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.width % (2 * self.heads):
            raise ValueError(f"width={self.width}, wanted a multiple of 2*heads={2 * self.heads}")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel={self.kernel}, wanted an odd number")
        if self.max_length % self.stride:
            raise ValueError(
                f"max_length={self.max_length}, wanted a multiple of stride={self.stride}"
            )
        return self


class T5Config(Strict):
    """The frozen encoder of a T5, UMT5 or ByT5 checkpoint."""

    kind: Literal["t5"]
    path: str = Field(min_length=1)  # a folder, or a hub name org/name
    max_length: PositiveInt = 256  # tokens, the end token included
    dtype: Dtype = "auto"


class ClipConfig(Strict):
    """The frozen text tower of a CLIP checkpoint."""

    kind: Literal["clip"]
    path: str = Field(min_length=1)  # a folder, or a hub name org/name
    max_length: PositiveInt = 77  # tokens, start and end included
    dtype: Dtype = "auto"


TextConfig = Byt5Config | T5Config | ClipConfig


def check_text(config: TextConfig) -> None:
    """Refuses a pretrained encoder that is not there, before anything heavy is imported.

    Hub names (``org/name``) pass: what has them is asked by ``models/text/hub.py``.

    Raises:
        ValueError: one line with the path.
    """
    if isinstance(config, Byt5Config):
        return
    check_checkpoint(config.path, field="text.path")


def check_checkpoint(path: str, *, field: str) -> None:
    """Refuses a path that holds no checkpoint; hub names pass.

    Args:
        path: a folder, or a hub name org/name.
        field: the recipe's name for it, for the message.

    Raises:
        ValueError: one line with the path.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        if _HUB_NAME.fullmatch(path):
            return
        raise ValueError(f"{field}={path}: seen no such folder, wanted {WANTED}")
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{field}={path}: seen no {CONFIG} in it, wanted {WANTED}")
