"""Finished weights in a run's folder: EMA tensors as safetensors beside a config.json."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from safetensors.torch import load
from torch import Tensor, nn

from orchestrator.errors import UserError
from orchestrator.storage.json_files import read_json
from orchestrator.storage.store import Store

WEIGHTS = "weights/ema.safetensors"
CONFIG = "weights/config.json"


def read_config(store: Store, *, stage: str) -> dict[str, Any]:
    """The config.json of a finished training stage.

    Raises:
        UserError: if the stage has not been trained to its end.
    """
    key = f"stages/{stage}/{CONFIG}"
    if not store.exists(key):
        raise UserError(_untrained(store, stage))
    return read_json(store, key)


def read_weights(store: Store, *, stage: str) -> dict[str, Tensor]:
    """EMA tensors of a finished training stage, by parameter and buffer name."""
    return load(store.get(f"stages/{stage}/{WEIGHTS}"))


def weights_digest(store: Store, *, stage: str) -> str:
    """Sha256 of a finished training stage's weights.

    Raises:
        UserError: if the stage has not been trained to its end.
    """
    key = f"stages/{stage}/{WEIGHTS}"
    if not store.exists(key):
        raise UserError(_untrained(store, stage))
    return hashlib.sha256(store.get(key)).hexdigest()


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], *, stage: str) -> None:
    """Copies tensors into a module.

    Raises:
        UserError: if names or shapes differ.
    """
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    given = {name: tensor.shape for name, tensor in tensors.items()}
    if own != given:
        differing = _first(
            [name for name in own.keys() | given.keys() if own.get(name) != given.get(name)]
        )
        raise UserError(
            f"weights of stage {stage}: {differing} has shape {_shape(given.get(differing))}, "
            f"wanted {_shape(own.get(differing))}"
        )
    module.load_state_dict(dict(tensors))


def _untrained(store: Store, stage: str) -> str:
    return f"stage {stage} has no finished weights in {store.uri}; train it first"


def _first(names: Iterable[str]) -> str:
    return min(names)


def _shape(shape: Any) -> str:
    return "none" if shape is None else str(list(shape))
