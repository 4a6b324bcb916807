"""Sizes of pretrained networks that answer while others train, without loading them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.text.config import Byt5Config, ClipConfig, Dtype, T5Config, TextConfig
from models.text.pair_config import PairConfig, PretrainedPairConfig, SmallPairConfig
from orchestrator.plan.facts import Beside
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage

# As their checkpoints have them: the text tower with its projection, and the image tower.
_CLIP = {
    "openai/clip-vit-base-patch32": (63_428_097, 87_849_216),
    "openai/clip-vit-base-patch16": (63_428_097, 86_192_640),
    "openai/clip-vit-large-patch14": (123_650_305, 303_966_208),
}
_PATCHES = {"patch32": 50, "patch16": 197, "patch14": 257}  # tokens of a picture of 224 pixels


@dataclass(frozen=True)
class _T5:
    width: int
    hidden: int
    layers: int
    heads: int
    head_width: int = 64
    vocabulary: int = 32_128
    matrices: int = 3  # of the MLP: gated from version 1.1 on

    @property
    def layer_parameters(self) -> int:
        attention = 4 * self.width * self.heads * self.head_width
        mlp = self.matrices * self.width * self.hidden
        return self.layers * (attention + mlp + 2 * self.width) + self.width + 32 * self.heads

    @property
    def parameters(self) -> int:
        return self.vocabulary * self.width + self.layer_parameters


# Raffel et al. 2019, arXiv:1910.10683, version 1.1.
_T5_SIZES = {
    "small": _T5(512, 1024, 8, 6),
    "base": _T5(768, 2048, 12, 12),
    "large": _T5(1024, 2816, 24, 16),
    "xl": _T5(2048, 5120, 24, 32),
    "xxl": _T5(4096, 10_240, 24, 64),
}


def frozen_text(config: TextConfig, *, tokens: int) -> Beside | None:
    """The pretrained text encoder; None if the recipe trains its own.

    Args:
        config: of the recipe.
        tokens: of a caption, for its FLOPs.

    Raises:
        ValueError: if its size is not known before it is fetched.
    """
    match config:
        case Byt5Config():
            return None
        case T5Config(path=path):
            shape = _t5(path)
            if shape is None:
                raise ValueError(f"text.path={path}: its size is not known before it is fetched")
            return Beside(
                name=path,
                parameters=shape.parameters,
                weight_bytes=_bytes(config.dtype),
                flops=2.0 * shape.layer_parameters * tokens,
            )
        case ClipConfig(path=path):
            text, _ = _clip(path, field="text.path")
            return Beside(
                name=path,
                parameters=text,
                weight_bytes=_bytes(config.dtype),
                flops=2.0 * text * tokens,
            )


def frozen_pair(config: PretrainedPairConfig, *, tokens: int) -> Beside:
    """Both towers of a pretrained pair; raises as ``frozen_text``."""
    text, image = _clip(config.path, field="pair.path")
    patches = _PATCHES.get(config.path.rpartition("-")[2], max(_PATCHES.values()))
    return Beside(
        name=config.path,
        parameters=text + image,
        weight_bytes=_bytes(config.dtype),
        flops=2.0 * (text * tokens + image * patches),
    )


def pair_of(recipe: Recipe, stage: Stage) -> PairConfig:
    """The pair whose embeddings a network reads or predicts."""
    if stage.pair is None:
        assert recipe.pair is not None
        return recipe.pair
    pair = recipe.stage(stage.pair).training.model
    assert isinstance(pair, SmallPairConfig)
    return pair


def _bytes(dtype: Dtype) -> int:
    return 2 if dtype == "bfloat16" else 4


def _t5(path: str) -> _T5 | None:
    found = _local(path)
    if found is not None:
        return _T5(
            width=found["d_model"],
            hidden=found["d_ff"],
            layers=found["num_layers"],
            heads=found["num_heads"],
            head_width=found["d_kv"],
            vocabulary=found["vocab_size"],
            matrices=3 if "gated" in found.get("feed_forward_proj", "relu") else 2,
        )
    return _T5_SIZES.get(path.rpartition("-")[2]) if path.startswith("google/") else None


def _clip(path: str, *, field: str) -> tuple[int, int]:
    found = _local(path)
    if found is not None:
        text = found.get("text_config", found)
        image = found.get("vision_config", {})
        return _tower(text), _tower(image) if image else 0
    if path in _CLIP:
        return _CLIP[path]
    raise ValueError(f"{field}={path}: its size is not known before it is fetched")


def _tower(config: dict[str, Any]) -> int:
    """Matrices of a transformer and its table of words."""
    width, hidden = config["hidden_size"], config["intermediate_size"]
    layer = 4 * width**2 + 2 * width * hidden
    return int(config["num_hidden_layers"] * layer + config.get("vocab_size", 0) * width)


def _local(path: str) -> dict[str, Any] | None:
    file = Path(path).expanduser() / "config.json"
    return json.loads(file.read_text()) if file.is_file() else None
