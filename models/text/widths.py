"""Widths of text encoders and pairs, without loading them (no torch, no transformers)."""

import json
from pathlib import Path
from typing import Any

from models.text.config import Byt5Config, ClipConfig, T5Config, TextConfig
from models.text.pair_config import PairConfig, SmallPairConfig

# As the hub's config.json has them. T5: Raffel et al. 2019, arXiv:1910.10683, section 3.7, and its
# version 1.1; CLIP: Radford et al. 2021, arXiv:2103.00020, table 20.
_T5 = {"small": 512, "base": 768, "large": 1024, "xl": 2048, "xxl": 4096}
_CLIP = {
    "openai/clip-vit-base-patch32": (512, 512),
    "openai/clip-vit-base-patch16": (512, 512),
    "openai/clip-vit-large-patch14": (768, 768),
}


def text_width(config: TextConfig) -> int:
    """Width of an encoder's states.

    Raises:
        ValueError: if it is a hub name that is not known here.
    """
    match config:
        case Byt5Config(width=width):
            return width
        case T5Config(path=path):
            found = _local(path)
            if found is not None:
                return int(found["d_model"])
            size = path.rpartition("-")[2]
            if path.startswith("google/") and size in _T5:
                return _T5[size]
        case ClipConfig(path=path):
            found = _local(path)
            if found is not None:
                return int(found.get("text_config", found)["hidden_size"])
            if path in _CLIP:
                return _CLIP[path][0]
    raise ValueError(f"text.path={config.path}: its width is not known before it is fetched")


def pair_widths(config: PairConfig) -> tuple[int, int]:
    """Widths of a pair's text states and of its embeddings.

    Raises:
        ValueError: if it is a hub name that is not known here.
    """
    if isinstance(config, SmallPairConfig):
        return config.text.width, config.embedding_width
    found = _local(config.path)
    if found is not None:
        return int(found["text_config"]["hidden_size"]), int(found["projection_dim"])
    if config.path in _CLIP:
        return _CLIP[config.path]
    raise ValueError(f"pair.path={config.path}: its widths are not known before it is fetched")


def _local(path: str) -> dict[str, Any] | None:
    file = Path(path).expanduser() / "config.json"
    return json.loads(file.read_text()) if file.is_file() else None
