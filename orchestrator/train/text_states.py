"""States of a frozen text encoder, computed once by the encode stage and read back in training.

A stored caption is a float32 array [1 + L, D]: the pooled vector, then its L real tokens.
"""

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.text.encoder import TextEncoder, TextStates, Tokens
from models.text.states import EMPTY_CAPTION
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.json_files import read_json
from orchestrator.storage.store import Store

META_KEY = "text.json"
EMPTY_KEY = "text-empty.npy"
PROMPTS_KEY = "text-prompts.npz"


class TextTable:
    """Collates stored caption states; the empty caption stands for a dropped one.

    Args:
        empty_LD: states of the empty caption.
        max_tokens: that a caption can have.
        prompts: states of the prompts that previews sample.
    """

    def __init__(
        self,
        *,
        empty_LD: np.ndarray,
        max_tokens: int,
        prompts: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._empty_LD = empty_LD
        self._prompts = dict(prompts or {})
        self.width = int(empty_LD.shape[1])
        self.max_tokens = max_tokens

    @classmethod
    def read(cls, store: Store, *, folder: str) -> "TextTable":
        """Opens what ``write`` left in an encode stage's folder."""
        meta = read_json(store, f"{folder}/{META_KEY}")
        raw = np.frombuffer(store.get(f"{folder}/{EMPTY_KEY}"), dtype=np.float32)
        names = meta.get("prompts", [])
        return cls(
            empty_LD=raw.reshape(-1, meta["width"]).copy(),
            max_tokens=int(meta["max_tokens"]),
            prompts=_read_prompts(store, folder=folder, names=names) if names else None,
        )

    def write(self, store: Store, *, folder: str) -> None:
        """Stores the states of the empty caption and of the prompts, and their width."""
        store.put(f"{folder}/{EMPTY_KEY}", self._empty_LD.astype(np.float32).tobytes())
        if self._prompts:
            packed = io.BytesIO()
            np.savez(packed, *self._prompts.values())
            store.put(f"{folder}/{PROMPTS_KEY}", packed.getvalue())
        meta = {
            "width": self.width,
            "max_tokens": self.max_tokens,
            "prompts": list(self._prompts),
        }
        store.put(f"{folder}/{META_KEY}", json.dumps(meta).encode())

    def captions(self) -> dict[str, np.ndarray]:
        """States of the captions that are known by their text: the prompts and the empty one."""
        return {**self._prompts, EMPTY_CAPTION: self._empty_LD}

    def states(
        self,
        samples: Sequence[Mapping[str, Any]],
        *,
        picked: Sequence[int],
        dropped: Sequence[bool],
    ) -> TextStates:
        """Pads the picked wording of every clip to one length.

        Args:
            samples: decoded members; wording i is under ``text{i}``.
            picked: index of the wording of each clip.
            dropped: clips that get the empty caption instead.
        """
        return unpack_states(
            [
                self._empty_LD if drop else np.asarray(sample[f"text{index}"], dtype=np.float32)
                for sample, index, drop in zip(samples, picked, dropped, strict=True)
            ]
        )


class StoredText(TextEncoder):
    """Stands for a frozen encoder where all captions are known beforehand.

    Its tokens are the captions' numbers.
    """

    def __init__(self, captions: Mapping[str, np.ndarray]) -> None:
        super().__init__()
        self._numbers = {caption: number for number, caption in enumerate(captions)}
        self._rows = list(captions.values())
        self.width = int(self._rows[0].shape[1])
        self.trainable = False
        self.max_length = 1

    def tokenize(self, captions: Sequence[str]) -> Tokens:
        """KeyError for a caption that is not known."""
        ids_BL = torch.tensor([[self._numbers[caption]] for caption in captions])
        return Tokens(ids_BL=ids_BL, mask_BL=torch.ones_like(ids_BL, dtype=torch.bool))

    def forward(self, ids_BL: Tensor, mask_BL: Tensor) -> TextStates:
        """Returns states in float32, on the device of the tokens."""
        del mask_BL
        rows = [self._rows[number] for number in ids_BL[:, 0].tolist()]
        return unpack_states(rows).to(ids_BL.device)


def preview_prompts(recipe: Recipe, *, encode: str) -> tuple[str, ...]:
    """Prompts that previews of the stages behind an encode stage sample."""
    readers = [stage.training for stage in recipe.stages if stage.latents == encode]
    previews = [train.preview for train in readers if train.preview is not None]
    return tuple(dict.fromkeys(prompt for preview in previews for prompt in preview.prompts))


def encode_captions(
    text: TextEncoder, captions: Sequence[str], *, device: torch.device
) -> list[np.ndarray]:
    """What is stored of each caption, from a frozen encoder on a device."""
    with torch.inference_mode():
        tokens = text.tokenize(list(captions)).to(device)
        return pack_states(text(tokens.ids_BL, tokens.mask_BL))


def unpack_states(rows: Sequence[np.ndarray]) -> TextStates:
    """Stored captions of one width, padded to one length."""
    length, width = max(len(row) for row in rows) - 1, rows[0].shape[1]
    tokens_BLD = np.zeros((len(rows), length, width), dtype=np.float32)
    mask_BL = np.zeros((len(rows), length), dtype=bool)
    for index, row in enumerate(rows):
        tokens_BLD[index, : len(row) - 1] = row[1:]
        mask_BL[index, : len(row) - 1] = True
    return TextStates(
        tokens_BLD=torch.from_numpy(tokens_BLD),
        mask_BL=torch.from_numpy(mask_BL),
        pooled_BD=torch.from_numpy(np.stack([row[0] for row in rows])),
    )


def pack_states(states: TextStates) -> list[np.ndarray]:
    """One [1 + L, D] float32 array per caption: pooled vector, then the real tokens."""
    packed: list[np.ndarray] = []
    for tokens_LD, mask_L, pooled_D in zip(
        states.tokens_BLD, states.mask_BL, states.pooled_BD, strict=True
    ):
        rows = torch.cat([pooled_D[None], tokens_LD[mask_L]])
        packed.append(rows.float().cpu().numpy())
    return packed


def _read_prompts(store: Store, *, folder: str, names: Sequence[str]) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(store.get(f"{folder}/{PROMPTS_KEY}")), allow_pickle=False) as packed:
        return {name: packed[f"arr_{number}"] for number, name in enumerate(names)}
