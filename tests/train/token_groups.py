"""What ranks of a gang do in ``test_sequence_parallel``."""

import dataclasses
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.sora.dit import Condition, VideoDiT
from models.sora.dit_config import DiTConfig
from models.text.states import TextStates
from orchestrator.train.ranks import Ranks
from orchestrator.train.token_group import RankGroup, token_group
from tests.models.dits import latents, stirred, text_states, times

Arrays = dict[str, np.ndarray]
CLIPS = 2


def loss_and_gradients(
    ranks: Ranks, *, config: str, size: tuple[int, int, int], sharing: int, recompute: bool = False
) -> tuple[float, Arrays]:
    """Means over the ranks, of which each group has taken clips of its own."""
    ranks = dataclasses.replace(ranks, sharing=sharing)
    group = token_group(ranks)
    clips = slice(ranks.reader, None, ranks.readers)
    loss, gradients = of_clips(
        config=config, size=size, group=group, clips=clips, recompute=recompute
    )
    for tensor in (loss, *gradients.values()):
        dist.all_reduce(tensor)
        tensor /= ranks.world_size
    return float(loss), {name: tensor.numpy() for name, tensor in gradients.items()}


def of_clips(
    *,
    config: str,
    size: tuple[int, int, int],
    group: RankGroup | None = None,
    clips: slice = slice(None),
    recompute: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A transformer's loss on some clips, and its gradients by name."""
    known = DiTConfig.model_validate_json(config)
    dit = stirred(known)
    if group is not None:
        dit.share_tokens(group)
    if recompute:
        for block in dit.blocks():
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    x_BCTHW, text = latents(*size, clips=CLIPS)[clips], text_states(clips=CLIPS)
    text = TextStates(
        tokens_BLD=text.tokens_BLD[clips],
        mask_BL=text.mask_BL[clips],
        pooled_BD=text.pooled_BD[clips],
    )
    out_BCTHW = _run(dit, x_BCTHW, times(CLIPS)[clips], text)
    weight_BCTHW = torch.arange(out_BCTHW[0].numel()).view_as(out_BCTHW[0]) % 7
    loss = (out_BCTHW.square() * weight_BCTHW).mean()
    loss.backward()
    return loss.detach(), {n: w.grad for n, w in dit.named_parameters() if w.grad is not None}


def _run(dit: VideoDiT, x_BCTHW: Tensor, t_B: Tensor, text: TextStates) -> Tensor:
    if not dit.config.condition_frames:
        return dit(x_BCTHW, t_B, text)
    mask = torch.zeros_like(x_BCTHW[:, :1])
    mask[:, :, 0] = 1.0
    return dit(x_BCTHW, t_B, text, Condition(x_BCTHW * mask, mask))
