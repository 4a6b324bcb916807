"""Small priors and captions for their tests."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.diffusion.config import DiffusionConfig
from models.diffusion.objective import build_objective
from models.make_a_video.prior import Prior
from models.make_a_video.prior_config import PriorConfig
from models.make_a_video.sample_prior import PriorChain
from models.text.config import Byt5Config
from models.text.pair_config import SmallPairConfig
from models.text.pair_states import PairText, unit
from models.text.small_pair import SmallPair
from models.text.states import TextStates

EMBEDDING, TEXT_WIDTH, TEXT_TOKENS = 6, 10, 7
CHAIN_EMBEDDING = 8
SMALL = PriorConfig(width=16, heads=2, depth=2, text_tokens=TEXT_TOKENS)


def fresh(config: PriorConfig = SMALL, *, embedding: int = EMBEDDING) -> Prior:
    """As training starts: the output is zero."""
    torch.manual_seed(0)
    return Prior(config, embedding_width=embedding, text_width=TEXT_WIDTH)


def stirred(config: PriorConfig = SMALL, *, embedding: int = EMBEDDING) -> Prior:
    """As after some training: nothing is zero any more."""
    prior = fresh(config, embedding=embedding)
    for parameter in prior.parameters():
        nn.init.normal_(parameter, std=0.5)
    return prior


def small_chain() -> PriorChain:
    """A pair and a stirred prior of its widths."""
    torch.manual_seed(0)
    pair = SmallPair(
        SmallPairConfig(
            text=Byt5Config(width=16, depth=1, heads=2), embedding_width=CHAIN_EMBEDDING
        )
    )
    config = PriorConfig(width=32, heads=2, depth=2, text_tokens=64)
    prior = Prior(config, embedding_width=CHAIN_EMBEDDING, text_width=pair.width)
    for parameter in prior.parameters():
        nn.init.normal_(parameter, std=0.2)
    objective = build_objective(DiffusionConfig(kind="x0"))
    return PriorChain(pair=pair.eval(), prior=prior.eval(), objective=objective)


def random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator)


def pair_text(*, captions: int = 2, tokens: int = 5) -> PairText:
    """Caption i has its last i tokens masked."""
    lengths = tokens - torch.arange(captions)
    return PairText(
        states=TextStates(
            tokens_BLD=random(captions, tokens, TEXT_WIDTH),
            mask_BL=torch.arange(tokens)[None, :] < lengths[:, None],
            pooled_BD=random(captions, TEXT_WIDTH),
        ),
        embedding_BE=unit(random(captions, EMBEDDING)),
    )


def double(text: PairText) -> PairText:
    """The same in float64."""
    return PairText(
        states=TextStates(
            tokens_BLD=text.states.tokens_BLD.double(),
            mask_BL=text.states.mask_BL,
            pooled_BD=text.states.pooled_BD.double(),
        ),
        embedding_BE=text.embedding_BE.double(),
    )


def checkpoint_blocks(blocks: Iterable[nn.Module]) -> None:
    """Recomputes each block in the backward pass."""
    for block in blocks:
        plain = block.forward
        block.forward = lambda *args, plain=plain: checkpoint(plain, *args, use_reentrant=False)
