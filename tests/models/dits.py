"""Small transformers and inputs for the tests of the diffusion transformer."""

import torch
from torch import Tensor, nn

from models.sora.dit import VideoDiT
from models.sora.dit_config import DiTConfig
from models.text.states import TextStates

CHANNELS, TEXT_WIDTH = 4, 12

CROSS = DiTConfig(width=32, heads=2, depth=2)
DUAL = DiTConfig(width=32, heads=2, depth=2, text_fusion="joint")
DUAL_SINGLE = DiTConfig(width=32, heads=2, depth=1, single_depth=2, text_fusion="joint")
SINGLE = DiTConfig(width=32, heads=2, depth=0, single_depth=2, text_fusion="joint")
FUSIONS = {"cross": CROSS, "dual": DUAL, "dual_single": DUAL_SINGLE, "single": SINGLE}


def fresh(config: DiTConfig) -> VideoDiT:
    """As training starts: every block is the identity, the output is zero."""
    torch.manual_seed(0)
    return VideoDiT(config, channels=CHANNELS, text_width=TEXT_WIDTH)


def stirred(config: DiTConfig, *, std: float = 0.2) -> VideoDiT:
    """As after some training: nothing is zero any more."""
    dit = fresh(config)
    for parameter in dit.parameters():
        nn.init.normal_(parameter, std=std)
    return dit


def latents(*size: int, clips: int = 2, channels: int = CHANNELS) -> Tensor:
    """Noisy latents [clips, channels, *size]."""
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randn(clips, channels, *size, generator=generator)


def times(clips: int = 2) -> Tensor:
    """Times spread over (0, 1)."""
    return torch.linspace(0.1, 0.9, clips)


def text_states(*, clips: int = 2, tokens: int = 5) -> TextStates:
    """Clip i has its last i tokens masked."""
    generator = torch.Generator().manual_seed(1)
    lengths = tokens - torch.arange(clips)
    return TextStates(
        tokens_BLD=torch.randn(clips, tokens, TEXT_WIDTH, generator=generator),
        mask_BL=torch.arange(tokens)[None, :] < lengths[:, None],
        pooled_BD=torch.randn(clips, TEXT_WIDTH, generator=generator),
    )
