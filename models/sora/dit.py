"""The diffusion transformer: noisy latents, a time and a text in, the objective's target out.

Shape letters:
  B clips   C latent channels   T H W latent grid   F features of a patch   D model width
  N video tokens (on this rank, where ranks share them)   L text tokens   P rotary pairs of a head
  M video tokens of the clip and text tokens, but N + L in ``x_BMD``
"""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from models.nn.attention import CrossAttention
from models.nn.embeddings import TimeEmbedding, TwoLayer
from models.nn.norms import EPS, Modulation, modulate
from models.nn.patch import Triple, patchify, token_grid, unpatchify
from models.nn.rope import rope_table
from models.nn.sequence import AllTokens, SharedTokens, TokenGroup, Tokens
from models.sora.dit_blocks import CrossBlock, DualBlock, LastDualBlock, SingleBlock
from models.sora.dit_config import DiTConfig
from models.text.states import TextStates


@dataclass(frozen=True)
class Condition:
    """Latents that are given, and where; zero elsewhere."""

    latents_BCTHW: Tensor
    mask_B1THW: Tensor  # 1 = given


class TextInput(nn.Module):
    """Brings a text encoder's tokens and pooled vector to the model's width.

    The RMS norms make the scale of the encoder's states (T5's are large) irrelevant.
    """

    def __init__(self, *, text_width: int, width: int) -> None:
        super().__init__()
        self.token_norm = nn.RMSNorm(text_width, eps=EPS)
        self.tokens = TwoLayer(features=text_width, width=width)
        self.pooled_norm = nn.RMSNorm(text_width, eps=EPS)
        self.pooled = TwoLayer(features=text_width, width=width)

    def forward(self, text: TextStates) -> tuple[Tensor, Tensor]:
        """Returns tokens [B, L, D] and a vector [B, D] in the dtype of the weights."""
        dtype = self.tokens.hidden.weight.dtype
        tokens_BLD = self.tokens(self.token_norm(text.tokens_BLD.to(dtype)))
        return tokens_BLD, self.pooled(self.pooled_norm(text.pooled_BD.to(dtype)))


class FinalLayer(nn.Module):
    """Modulated LayerNorm and a linear to patches; all zero at first."""

    def __init__(self, *, width: int, features: int) -> None:
        super().__init__()
        self.modulation = Modulation(width=width, parts=2)
        self.linear = nn.Linear(width, features)

    def forward(self, x_BND: Tensor, cond_BD: Tensor) -> Tensor:
        """Returns patches [B, N, F]."""
        return self.linear(modulate(x_BND, *self.modulation(cond_BD)))


class VideoDiT(nn.Module):
    """A transformer over spacetime patches with full attention in space and time.

    Any grid that the patch divides goes through one set of weights: positions come from the grid
    at hand, an image is a clip of one frame. Text reaches every block twice: by attention, and as
    a vector added to the time embedding that modulates all blocks.

    Source: Peebles & Xie 2022, arXiv:2212.09748, for latent video as in Brooks et al. 2024 (the
    Sora report); initialisation as in DiT's published code, positions by RoPE instead of sines.
    """

    def __init__(self, config: DiTConfig, *, channels: int, text_width: int) -> None:
        super().__init__()
        self.place: Tokens = AllTokens()
        self.config = config
        self.channels = channels
        self.text_width = text_width
        shape = config.shape
        features = channels * prod(config.patch)
        self.patch_in = nn.Linear(features, shape.width)
        # With patch_in this is one linear over 2C + 1 channels. Apart, it can start at zero, and
        # a model without it is the same model.
        self.condition_in = (
            nn.Linear((channels + 1) * prod(config.patch), shape.width, bias=False)
            if config.condition_frames
            else None
        )
        self.time = TimeEmbedding(width=shape.width)
        self.text = TextInput(text_width=text_width, width=shape.width)
        sizes = {"width": shape.width, "heads": shape.heads, "mlp_ratio": config.mlp_ratio}
        if shape.fusion == "cross":
            blocks: list[nn.Module] = [CrossBlock(**sizes) for _ in range(shape.depth)]
        else:
            blocks = [DualBlock(**sizes) for _ in range(shape.depth)]
            if blocks and not shape.single_depth:
                blocks[-1] = LastDualBlock(**sizes)
        self.main_blocks = nn.ModuleList(blocks)
        self.single_blocks = nn.ModuleList(SingleBlock(**sizes) for _ in range(shape.single_depth))
        self.final = FinalLayer(width=shape.width, features=features)
        self._initialise()

    def blocks(self) -> list[nn.Module]:
        """The blocks in order, to be compiled or checkpointed one by one."""
        return [*self.main_blocks, *self.single_blocks]

    def share_tokens(self, group: TokenGroup) -> None:
        """From now on a group of ranks computes every clip together, each a part of its tokens.

        Each of them is given the same clips, times and texts and returns the same outputs. How
        gradients of the ranks add up is in ``models/nn/sequence.py``. Collective.

        Raises:
            ValueError: if the heads cannot be split over the ranks.
        """
        heads = self.config.shape.heads
        if heads % group.size:
            raise ValueError(f"heads={heads}, wanted a multiple of {group.size}, the group's ranks")
        self.place = SharedTokens(group)
        for block in self.blocks():
            assert isinstance(block, CrossBlock | DualBlock | LastDualBlock | SingleBlock)
            block.split(self.place)

    def forward(
        self,
        x_BCTHW: Tensor,
        t_B: Tensor,
        text: TextStates,
        condition: Condition | None = None,
    ) -> Tensor:
        """Predicts the objective's target.

        Args:
            x_BCTHW: noisy latents, [B, C, T, H, W], in the dtype of the weights.
            t_B: times in [0, 1], [B]; 0 is clean.
            text: states of a text encoder of width ``text_width``; each clip with at least one
                real token.
            condition: given latents; none means that nothing is given.

        Returns:
            [B, C, T, H, W] in the dtype of ``x_BCTHW``.

        Raises:
            ValueError: if channels or text width differ from the model's, if a side is not a
                multiple of the patch, or if frames are given to a model that takes none.
        """
        grid = self._grid(x_BCTHW, text)
        x_BND = self._tokens(x_BCTHW, condition)
        text_BLD, pooled_BD = self.text(text)
        cond_BD = self.time(t_B) + pooled_BD
        run = self._run_cross if self.config.shape.fusion == "cross" else self._run_joint
        x_BND = run(x_BND, cond_BD, text_BLD, text.mask_BL, grid)
        patches_BNF = self.place.whole(self.final(x_BND, cond_BD), tokens=prod(grid))
        return unpatchify(patches_BNF, grid=grid, patch=self.config.patch).to(x_BCTHW.dtype)

    def _grid(self, x_BCTHW: Tensor, text: TextStates) -> Triple:
        channels, frames, height, width = x_BCTHW.shape[1:]
        if channels != self.channels:
            raise ValueError(f"latents have {channels} channels, wanted {self.channels}")
        if text.tokens_BLD.shape[-1] != self.text_width:
            raise ValueError(
                f"text has width {text.tokens_BLD.shape[-1]}, wanted {self.text_width}"
            )
        return token_grid((frames, height, width), patch=self.config.patch)

    def _tokens(self, x_BCTHW: Tensor, condition: Condition | None) -> Tensor:
        x_BND = self.patch_in(self.place.own(patchify(x_BCTHW, patch=self.config.patch)))
        if condition is None:
            return x_BND
        if self.condition_in is None:
            raise ValueError("frames are given, wanted a model with condition_frames=true")
        given = torch.cat([condition.latents_BCTHW, condition.mask_B1THW], dim=1)
        given_BNF = self.place.own(patchify(given.to(x_BCTHW.dtype), patch=self.config.patch))
        return x_BND + self.condition_in(given_BNF)

    def _rope(self, grid: Triple, device: torch.device, *, unrotated: int = 0) -> Tensor:
        return rope_table(
            grid,
            axes=self.config.axes,
            theta=self.config.rope_theta,
            device=device,
            unrotated=unrotated,
        )

    def _run_cross(
        self, x_BND: Tensor, cond_BD: Tensor, text_BLD: Tensor, mask_BL: Tensor, grid: Triple
    ) -> Tensor:
        rope_2NP = self._rope(grid, x_BND.device)
        mask_B11L = mask_BL[:, None, None, :]
        for block in self.main_blocks:
            x_BND = block(x_BND, cond_BD, text_BLD, mask_B11L, rope_2NP)
        return x_BND

    def _run_joint(
        self, x_BND: Tensor, cond_BD: Tensor, text_BLD: Tensor, mask_BL: Tensor, grid: Triple
    ) -> Tensor:
        tokens, words = x_BND.shape[1], text_BLD.shape[1]
        mask_BM = torch.cat([mask_BL.new_ones(len(mask_BL), prod(grid)), mask_BL], dim=1)
        mask_B11M = mask_BM[:, None, None, :]
        rope_2NP = self._rope(grid, x_BND.device)
        for block in self.main_blocks:
            x_BND, text_BLD = block(x_BND, text_BLD, cond_BD, mask_B11M, rope_2NP)
        if not self.single_blocks:
            return x_BND
        x_BMD = torch.cat([x_BND, text_BLD], dim=1)
        rope_2MP = self._rope(grid, x_BND.device, unrotated=words)
        for block in self.single_blocks:
            x_BMD = block(x_BMD, cond_BD, mask_B11M, rope_2MP, words)
        return x_BMD[:, :tokens]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in (self.time.mlp.hidden, self.time.mlp.out):
            nn.init.normal_(layer.weight, std=0.02)
        for module in self.modules():
            if isinstance(module, Modulation | CrossAttention):
                module.reset_parameters()
        nn.init.zeros_(self.final.linear.weight)
        if self.condition_in is not None:
            nn.init.zeros_(self.condition_in.weight)
