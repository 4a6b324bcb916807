"""Public packages that are measured beside ours, imported without what a step has no use for."""

import sys
from collections.abc import Callable
from functools import cache
from importlib.machinery import ModuleSpec
from unittest.mock import MagicMock, patch

from torch import nn
from transformers import T5Config, T5EncoderModel

assert T5EncoderModel is not None  # resolved before torchvision has a stand-in


@cache  # what was imported beside the stand-ins is forgotten with them
def unet3d() -> Callable[..., nn.Module]:
    """The class of imagen-pytorch.

    When imported, the package asks a hub for the width of T5, and wants torchvision,
    whose wheels need a torch of their own.
    """
    names = ("torchvision", "torchvision.transforms", "torchvision.utils")
    stand_ins = {name: MagicMock(__spec__=ModuleSpec(name, None)) for name in names}
    with (
        patch.object(T5Config, "from_pretrained", lambda name: T5Config()),
        patch.dict(sys.modules, stand_ins),
    ):
        from imagen_pytorch import Unet3D  # pyright: ignore[reportMissingImports]
    return Unet3D
