"""From prompts to a clip, through every network of a cascade.

Shape letters: B clips, T frames, H W height and width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.cascade.link import Link, Request
from models.diffusion.config import SamplerConfig
from models.make_a_video.sample_prior import PriorChain

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class PriorLink:
    """The prior that imagines the image whose embedding the networks read."""

    chain: PriorChain
    sampler: SamplerConfig

    def sample(self, prompts: Sequence[str], *, generators: Sequence[torch.Generator]) -> Tensor:
        """One embedding per prompt, [B, E], norm 1."""
        return self.chain.sample(prompts, sampler=self.sampler, generators=generators)


@dataclass(frozen=True)
class Cascade:
    """Trained networks in sampling order.

    U-Nets wait on the CPU; each is on the device only while it is sampled. A prior, its pair and a
    frozen text encoder stay there.

    Source: base to the last super-resolution, Ho et al. 2022 (Imagen Video), arXiv:2210.02303,
    figure 6; prior, decoder, interpolation, super-resolution, Singer et al. 2022 (Make-A-Video),
    arXiv:2209.14792, equation 1.
    """

    links: tuple[Link, ...]
    prior: PriorLink | None = None
    device: torch.device = _CPU

    @torch.no_grad()
    def sample(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> list[Tensor]:
        """The clips of every network.

        Args:
            prompts: captions, "" for none.
            seeds: one per prompt. A clip depends on its own prompt and seed only.

        Returns:
            [B, 3, T, H, W] per network, float32, pixels in [-1, 1]; the last is the result.

        Raises:
            ValueError: if the counts differ.
        """
        return self.run(self.request(prompts, seeds=seeds))

    def request(self, prompts: Sequence[str], *, seeds: Sequence[int]) -> Request:
        """What every network is asked for; the prior imagines its picture here.

        The prior is the first to draw from a clip's generator.

        Raises:
            ValueError: if the counts differ.
        """
        if not prompts or len(prompts) != len(seeds):
            raise ValueError(f"got {len(prompts)} prompts and {len(seeds)} seeds, wanted as many")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        embedding = None
        if self.prior is not None:
            embedding = self.prior.sample(prompts, generators=generators)
        return Request(prompts=prompts, generators=generators, embedding_BE=embedding)

    def run(self, request: Request, below: Tensor | None = None) -> list[Tensor]:
        """The clips of every network, the first one's from ``below`` if there is such a clip."""
        clips: list[Tensor] = []
        for link in self.links:
            with resident(link.model, device=self.device):
                below = link.sample(request, below)
            clips.append(below)
        return clips


@contextmanager
def resident(model: nn.Module, *, device: torch.device) -> Iterator[None]:
    """The model is on the device inside, and on the CPU again afterwards."""
    model.to(device)
    try:
        yield
    finally:
        model.to(_CPU)
