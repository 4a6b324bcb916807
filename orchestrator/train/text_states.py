"""States of a frozen text encoder, computed once by the encode stage and read back in training."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from models.text.encoder import TextStates
from orchestrator.storage.store import Store

META_KEY = "text.json"
EMPTY_KEY = "text-empty.npy"


class TextTable:
    """Collates stored caption states; the empty caption stands for a dropped one.

    A stored caption is a float array [1 + L, D]: the pooled vector, then its L real tokens.
    """

    def __init__(self, *, empty_LD: np.ndarray, max_tokens: int) -> None:
        self._empty_LD = empty_LD
        self.width = int(empty_LD.shape[1])
        self.max_tokens = max_tokens

    @classmethod
    def read(cls, store: Store, *, folder: str) -> "TextTable":
        """Opens what ``write`` left in an encode stage's folder."""
        meta = json.loads(store.get(f"{folder}/{META_KEY}"))
        raw = np.frombuffer(store.get(f"{folder}/{EMPTY_KEY}"), dtype=np.float32)
        return cls(
            empty_LD=raw.reshape(-1, meta["width"]).copy(), max_tokens=int(meta["max_tokens"])
        )

    def write(self, store: Store, *, folder: str) -> None:
        """Stores the empty caption's states and their width."""
        store.put(f"{folder}/{EMPTY_KEY}", self._empty_LD.astype(np.float32).tobytes())
        meta = {"width": self.width, "max_tokens": self.max_tokens}
        store.put(f"{folder}/{META_KEY}", json.dumps(meta).encode())

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
        rows = [
            self._empty_LD if drop else np.asarray(sample[f"text{index}"], dtype=np.float32)
            for sample, index, drop in zip(samples, picked, dropped, strict=True)
        ]
        length = max(len(row) for row in rows) - 1
        tokens_BLD = np.zeros((len(rows), length, self.width), dtype=np.float32)
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
