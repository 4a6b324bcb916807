"""What the frozen encoders have in common: loading from a folder or the hub, and staying frozen.

Shape letters: B captions, L tokens of the longest one.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as hf_logging

from models.text.config import Dtype
from models.text.hub import is_away
from models.text.states import TextEncoder, Tokens

_REASON_CHARS = 300


class FrozenEncoder(TextEncoder):
    """A pretrained network with its tokenizer; in eval mode whatever its owner is in."""

    def __init__(self, model: nn.Module, *, tokenizer: Any, width: int, max_length: int) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.tokenizer = tokenizer
        self.width = width
        self.trainable = False
        self.max_length = max_length
        self.eval()

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Stays in eval mode: a frozen encoder has no dropout."""
        del mode
        return super().train(False)

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """Pads to the longest caption, cuts at ``max_length``."""
        return pad_tokens(captions, tokenizer=self.tokenizer, max_length=self.max_length)


def pad_tokens(captions: Sequence[str], *, tokenizer: Any, max_length: int) -> Tokens:
    """Tokens of a checkpoint's own tokenizer, padded to the longest caption, cut at the limit."""
    batch = tokenizer(
        list(captions),
        padding="longest",
        truncation=True,
        max_length=max_length,
        return_tensors="pt",
    )
    return Tokens(ids_BL=batch["input_ids"], mask_BL=batch["attention_mask"].bool())


def load_pretrained(
    path: str, *, classes: dict[str, type[Any]], dtype: Dtype, field: str = "text.path"
) -> tuple[nn.Module, Any]:
    """A network in eval mode, and its tokenizer.

    Args:
        path: a folder, or a hub name.
        classes: network class by the ``model_type`` of the checkpoint's config.
        dtype: of the weights; ``auto`` leaves them as they are stored.
        field: the recipe's name for the path, for the message.

    Raises:
        ValueError: one line, if the checkpoint cannot be had or read, or is of another family.
        ConnectionError: one line, if the hub does not answer and its cache lacks a part.
    """
    folder = Path(path).expanduser()
    is_local = folder.exists()
    where = str(folder) if is_local else path
    try:
        with _quiet():
            config = AutoConfig.from_pretrained(where, local_files_only=is_local)
            if config.model_type not in classes:
                raise ValueError(f"holds a {config.model_type}, wanted {' or '.join(classes)}")
            tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=is_local)
            model = classes[config.model_type].from_pretrained(
                where, dtype=dtype, local_files_only=is_local
            )
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:_REASON_CHARS]
        if is_away(error):
            raise ConnectionError(f"{field}={path} cannot be fetched: {reason}") from error
        raise ValueError(f"{field}={path} cannot be loaded: {reason}") from error
    return model, tokenizer


def masked_mean(tokens_BLD: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
    """Mean over real tokens, taken in float32, [B, D] in the dtype of the tokens."""
    weight_BL1 = mask_BL[..., None].float()
    mean_BD = (tokens_BLD.float() * weight_BL1).sum(dim=1) / weight_BL1.sum(dim=1)
    return mean_BD.to(tokens_BLD.dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no report of a decoder's unused weights while a checkpoint loads."""
    verbosity, had_bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if had_bar:
            hf_logging.enable_progress_bar()
