"""What ranks of a gang do in ``test_sequence_parallel`` and ``test_shared_tokens``."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.diffusion.config import FlowConfig, GuidanceConfig, SamplerConfig
from models.diffusion.objective import build_objective
from models.nn.attention import attend
from models.nn.sequence import SharedTokens
from models.sora.autoencoder import VideoAutoencoder
from models.sora.autoencoder_config import AutoencoderConfig
from models.sora.dit import Condition, VideoDiT
from models.sora.dit_config import DiTConfig
from models.sora.sample import SoraChain
from models.text.config import Byt5Config
from models.text.encoder import build_text_encoder
from models.text.states import TextStates
from orchestrator.data.bad import BadSample, BadSamples
from orchestrator.data.batch import Plan, StepBatch
from orchestrator.launch.sample import sample_run
from orchestrator.train.bad_samples import SharedBad
from orchestrator.train.engine.library import load_deepspeed
from orchestrator.train.job import StageJob
from orchestrator.train.ranks import Ranks
from orchestrator.train.token_group import RankGroup, token_group
from orchestrator.train.worker import run
from tests.models.dits import latents, stirred, text_states, times
from tests.train.workers import Recorded

Arrays = dict[str, np.ndarray]
How = Literal["plain", "recomputed", "compiled", "compiled and recomputed"]
CLIPS = 2


def loss_and_gradients(
    ranks: Ranks, *, config: str, size: tuple[int, int, int], sharing: int, how: How = "plain"
) -> tuple[float, Arrays]:
    """Means over the ranks, of which each group has taken clips of its own."""
    ranks = dataclasses.replace(ranks, sharing=sharing)
    group = token_group(ranks)
    clips = slice(ranks.reader, None, ranks.readers)
    loss, gradients = of_clips(config=config, size=size, group=group, clips=clips, how=how)
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
    how: How = "plain",
) -> tuple[Tensor, dict[str, Tensor]]:
    """A transformer's loss on some clips, and its gradients by name."""
    known = DiTConfig.model_validate_json(config)
    dit = stirred(known)
    if group is not None:
        dit.share_tokens(group)
    for block in dit.blocks():
        if "compiled" in how:  # as ``apply_memory_and_speed`` does
            block.forward = torch.compile(block.forward, backend="aot_eager")
        if "recomputed" in how:
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


def sampled(ranks: Ranks, *, sharing: int) -> np.ndarray:
    """A guided chain's clips of two prompts, from a black frame on, [2, 3, T, H, W]."""
    ranks = dataclasses.replace(ranks, sharing=sharing)
    return of_prompts(group=token_group(ranks))


def of_prompts(*, group: RankGroup | None = None) -> np.ndarray:
    """The same, by one rank or the ranks of a group."""
    torch.manual_seed(0)
    autoencoder = VideoAutoencoder(
        AutoencoderConfig(latent_channels=4, width=8, width_mults=(1, 1, 2), space_factor=4)
    )
    text = build_text_encoder(Byt5Config(width=16, depth=1, heads=2, max_length=32))
    dit = VideoDiT(
        DiTConfig(depth=2, width=48, heads=4, condition_frames=True),
        channels=4,
        text_width=text.width,
    )
    for weight in dit.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    if group is not None:
        dit.share_tokens(group)
    chain = SoraChain(
        autoencoder=autoencoder.eval(),
        dit=dit.eval(),
        text=text.eval(),
        objective=build_objective(FlowConfig()),
    )
    clips = chain.sample(
        ["a red three moving left", "a blue nine"],
        frames=9,
        size=(8, 24),
        sampler=SamplerConfig(steps=3, guidance=GuidanceConfig(scale=3.0)),
        seeds=[1, 2],
        condition_video=torch.zeros(2, 3, 1, 8, 24),
    )
    return clips.numpy()


def train_until(_ranks: Ranks, *, job: str, stop_after: int | None = None) -> tuple[str, int]:
    """Trains the stage of a job (as JSON); how and at which step it ended."""
    result = run(StageJob.model_validate_json(job), hooks=Recorded(stop_after=stop_after))
    return result.status, result.step


def sample_files(_ranks: Ranks, *, run: str, prompts: list[str], out: str) -> list[str]:
    """Names of the files that this rank writes of a finished run."""
    paths = sample_run(
        run,
        prompts,
        out=Path(out),
        seed=1,
        npz=True,
        distilled=True,
        on_clips=lambda _: None,
    )
    return [path.name for path in paths]


def attention_of_deepspeed(ranks: Ranks) -> list[np.ndarray]:
    """Outputs and gradients of DeepSpeed's Ulysses and of ours, over DeepSpeed's group."""
    deepspeed = load_deepspeed(ranks.device)
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    from deepspeed.runtime.sequence_parallel import parallel_state_sp
    from deepspeed.sequence.layer import DistributedAttention

    parallel_state_sp.initialize_sequence_parallel(2)
    group = parallel_state_sp.get_sequence_parallel_group()
    place = SharedTokens(RankGroup(group))
    generator = torch.Generator().manual_seed(ranks.rank)
    qkv = [torch.randn(1, 4, 3, 8, generator=generator).requires_grad_() for _ in range(3)]

    def whole(q_BNHK: Tensor, k_BNHK: Tensor, v_BNHK: Tensor) -> Tensor:
        parts = (x.transpose(1, 2) for x in (q_BNHK, k_BNHK, v_BNHK))
        return F.scaled_dot_product_attention(*parts).transpose(1, 2)

    theirs = DistributedAttention(whole, group, scatter_idx=2, gather_idx=1)
    out_BND = theirs(*(x.transpose(1, 2) for x in qkv), 0).flatten(2)
    ours_BND = place.gathered(attend(*place.heads(tuple(qkv), tokens=3 * 2)))
    found = []
    for out in (out_BND, ours_BND):
        gradients = torch.autograd.grad(out.square().sum(), qkv)
        found += [torch.stack([out.unflatten(2, (4, 8)).transpose(1, 2), *gradients])]
    return [one.detach().numpy() for one in found]


def settled(ranks: Ranks, *, bad_on: list[int]) -> tuple[list[str], float]:
    """Keys of a step's two clips once settled, the first of which some ranks of pairs cannot read.

    And how many bad samples are known then.
    """
    ranks = dataclasses.replace(ranks, sharing=2)
    found = BadSamples(most=1)
    bad = BadSample(index="index", row=0, key="first", why="first is damaged")
    if ranks.rank in bad_on:
        found.found(bad)
    plan = Plan(
        step=0,
        position=0,
        bucket=(9, 32, 32),
        ordinal=0,
        size=2 * ranks.readers,
        slots=(ranks.reader, ranks.reader + ranks.readers),
        draws=(),
        packed=(),
    )

    def read(plan: Plan) -> StepBatch:
        keys = "another" if found.get(bad.index, bad.row) else bad.key, f"second-{ranks.reader}"
        return StepBatch(
            plan=plan,
            keys=keys,
            instead=(None, None),
            parts=("", ""),
            samples=({}, {}),
            captions=((), ()),
            fps=(8.0, 8.0),
            packed=((), ()),
        )

    shared = SharedBad(found, ranks=ranks, note=lambda _: None)
    batch = shared.settle(read(plan), read=read)
    return list(batch.keys), shared.share()["bad_samples"]
