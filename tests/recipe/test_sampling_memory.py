"""Every network of both published recipes is sampled within 80 GB."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.cascade.parts import FREE_SHARE, in_parts, in_steps, pixels_at_once
from models.nn.unet import SpaceTimeUNet
from models.nn.unet_config import UNetConfig
from models.nn.unet_inputs import UNetInputs
from models.nn.unet_reach import peak_values
from models.text.states import TextStates
from orchestrator.recipe.load import load_recipe

JOBS = Path(__file__).parents[2] / "jobs"
CARD = 80 * 10**9  # bytes
TEXT_WIDTH, TOKENS = 4096, 128
# All others go through their network whole. sr_h takes 76 frames one by one.
IN_PARTS = {"ssr3", "sr_h"}


class Peak(TorchDispatchMode):
    """The most bytes that tensors made inside have held at once."""

    def __init__(self, *, but: Sequence[Tensor]) -> None:
        super().__init__()
        self._but = {StorageWeakRef(one.untyped_storage()) for one in but}
        self._live: dict[StorageWeakRef, int] = {}
        self._held = 0  # bytes of those, and of some that have gone since they were last counted
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor):
                storage = one.untyped_storage()
                if (ref := StorageWeakRef(storage)) not in self._but:
                    self._held += storage.nbytes() - self._live.get(ref, 0)
                    self._live[ref] = storage.nbytes()
        if self._held > self.bytes:  # only then may it be more than ever: counting takes long
            self._live = {ref: size for ref, size in self._live.items() if not ref.expired()}
            self._held = sum(self._live.values())
            self.bytes = max(self.bytes, self._held)
        return made


@cache
def networks() -> dict[str, tuple[UNetConfig, tuple[int, int, int, int]]]:
    """By stage: the network, and clips, frames, height and width of what it is sampled on."""
    found: dict[str, tuple[UNetConfig, tuple[int, int, int, int]]] = {}
    for name in ("make_a_video", "imagen_video"):
        recipe = load_recipe(JOBS / f"{name}.yaml")
        assert recipe.result is not None
        frames = 1
        for stage in recipe.chain(recipe.result.id):
            clip = stage.training.clip
            frames = max(frames, clip.frames)  # a network of space takes longer clips
            shape = (frames, 1) if clip.frames == 1 else (1, frames)
            found[stage.id] = (stage.training.unet, (*shape, *clip.size))
    return found


def inputs(config: UNetConfig, x_B3THW: Tensor) -> UNetInputs:
    """All that the network reads, without numbers."""
    clips, _, *size = x_B3THW.shape
    text = TextStates(
        tokens_BLD=x_B3THW.new_empty(clips, TOKENS, TEXT_WIDTH),
        mask_BL=x_B3THW.new_empty(clips, TOKENS, dtype=torch.bool),
        pooled_BD=x_B3THW.new_empty(clips, TEXT_WIDTH),
    )
    image, per_clip = config.image_embedding, x_B3THW.new_empty(clips)
    return UNetInputs(
        text=text if config.text else None,
        image_embedding_GE=None if image is None else x_B3THW.new_empty(clips, image),
        fps_B=per_clip if config.fps else None,
        augmentation_B=per_clip if config.augmentation else None,
        low_resolution_BCTHW=x_B3THW if config.low_resolution else None,
        given_BCTHW=x_B3THW.new_empty(clips, 4, *size) if config.given_frames else None,
    )


def attended(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """As kernels do that store no weights of the attention."""
    return torch.empty_like(q)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("stage", networks())
@torch.no_grad()
def test_a_network_is_sampled_within_80_gb(
    stage: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(F, "scaled_dot_product_attention", attended)
    config, (clips, frames, height, width) = networks()[stage]
    with torch.device("meta"):
        network = SpaceTimeUNet(config, text_width=TEXT_WIDTH if config.text else None)
        x, t_B = torch.empty(clips, 3, frames, height, width), torch.empty(clips)
    network.eval().to(dtype)
    weights = sum(one.numel() * one.element_size() for one in network.parameters())
    pixels = pixels_at_once(
        config,
        bytes_per_value=dtype.itemsize,
        most_bytes=in_steps(int(FREE_SHARE * (CARD - weights)), total=CARD),
        sampled_pixels=x[:, 0].numel(),
    )
    calls: list[int] = []

    def watched(x: Tensor, t_B: Tensor, given: UNetInputs) -> Tensor:
        calls.append(x[:, 0].numel())
        return network(x, t_B, given)

    with Peak(but=[*network.parameters(), x]) as peak:
        in_parts(watched, x, t_B, inputs(config, x), config=config, most_pixels=pixels)
    assert max(calls) <= pixels
    estimate = peak_values(config) * dtype.itemsize * max(calls)
    assert weights + estimate < CARD
    assert weights + peak.bytes < CARD
    # The estimate has a copy per norm more, and not the pixels themselves.
    assert 0.9 * peak.bytes < estimate < 2 * peak.bytes
    if dtype == torch.bfloat16:
        assert (len(calls) > 1) == (stage in IN_PARTS)
