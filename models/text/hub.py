"""What a pretrained checkpoint says it is, before its weights are loaded (no torch)."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from models.text.config import CONFIG, WANTED, T5Config, TextConfig, check_checkpoint
from models.text.pair_config import PretrainedPairConfig

T5_FAMILY = ("t5", "mt5", "umt5")
CLIP_TEXT_FAMILY = ("clip", "clip_text_model")
CLIP_FAMILY = ("clip",)


def find_text(config: TextConfig) -> None:
    """Looks up a pretrained text encoder; the byte encoder needs none.

    Raises:
        ValueError: one line, if it is not there or of another family.
        ConnectionError: one line, if only the hub could say and it does not answer.
    """
    if config.kind == "byt5":
        return
    family = T5_FAMILY if isinstance(config, T5Config) else CLIP_TEXT_FAMILY
    read_config(config.path, field="text.path", family=family)


def find_pair(config: PretrainedPairConfig) -> None:
    """Looks up a pretrained pair; raises as ``find_text``."""
    read_config(config.path, field="pair.path", family=CLIP_FAMILY)


def read_config(path: str, *, field: str, family: Sequence[str]) -> dict[str, Any]:
    """A checkpoint's config.json: of its folder, else of the hub or the hub's cache.

    Args:
        path: a folder, or a hub name org/name.
        field: the recipe's name for it, for the message.
        family: values of ``model_type`` that will do.

    Raises:
        ValueError: one line, if there is no such checkpoint or it is of another family.
        ConnectionError: one line, if the hub does not answer and its cache has nothing.
    """
    check_checkpoint(path, field=field)
    folder = Path(path).expanduser()
    file = folder / CONFIG if folder.exists() else _fetched(path, field=field)
    try:
        tree: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        found = tree.get("model_type")
    except (OSError, ValueError, AttributeError):
        raise ValueError(f"{field}={path}: seen a {CONFIG} that cannot be read") from None
    if found not in family:
        raise ValueError(f"{field}={path}: holds a {found}, wanted {' or '.join(family)}")
    return tree


def fingerprint(path: str, *, field: str) -> dict[str, str]:
    """What tells a checkpoint from all others: equal for equal files, wherever a folder lies.

    Args:
        path: a folder, or a hub name org/name.
        field: the recipe's name for it, for the message.

    Returns:
        Sha256 of every file of a folder by its name, or name and revision on the hub.

    Raises:
        ValueError, ConnectionError: as ``read_config``.
    """
    check_checkpoint(path, field=field)
    folder = Path(path).expanduser()
    if not folder.exists():
        # A snapshot of the hub's cache is a folder with the revision's name.
        return {"name": path, "revision": _fetched(path, field=field).parent.name}
    try:
        return {file.name: _sha256(file) for file in sorted(folder.iterdir()) if file.is_file()}
    except OSError as error:
        raise ValueError(f"{field}={path}: cannot be read ({error.strerror})") from None


def is_away(error: BaseException) -> bool:
    """Whether an error came about because the hub did not answer."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LocalEntryNotFoundError):
            return True
        cause = cause.__cause__
    return False


def _fetched(path: str, *, field: str) -> Path:
    try:
        return Path(hf_hub_download(path, CONFIG))
    except (RepositoryNotFoundError, HFValidationError):
        raise ValueError(
            f"{field}={path}: seen no such folder, and no such model on the hub; wanted {WANTED}"
        ) from None
    except RemoteEntryNotFoundError:
        raise ValueError(f"{field}={path}: seen no {CONFIG} on the hub, wanted {WANTED}") from None
    except OSError:
        raise ConnectionError(
            f"{field}={path}: seen no such folder, and the hub does not answer; wanted {WANTED}"
        ) from None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
