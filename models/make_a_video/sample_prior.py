"""Prompts to CLIP image embeddings: the first link of the chain from text to video.

Shape letters: B prompts, N candidates of each, E width of an embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.config import SamplerConfig
from models.diffusion.guidance import Denoise, guided
from models.diffusion.objective import Objective
from models.diffusion.samplers import grid_of, sample
from models.make_a_video.prior import Prior
from models.text.pair_states import ImageTextPair, PairText, unit
from models.text.states import EMPTY_CAPTION

CANDIDATES = 2  # Ramesh et al. 2022, arXiv:2204.06125, section 2.2


@dataclass(frozen=True)
class PriorChain:
    """A pair and a prior on one device, put together for sampling."""

    pair: ImageTextPair
    prior: Prior
    objective: Objective

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        *,
        sampler: SamplerConfig,
        generators: Sequence[torch.Generator],
        candidates: int = CANDIDATES,
    ) -> Tensor:
        """One image embedding per prompt: the candidate that is closest to its text.

        Args:
            prompts: captions, "" for none.
            sampler: rule, steps and guidance.
            generators: one per prompt, on the CPU, so that a seed means the same noise on every
                device. An embedding depends on its own prompt, its generator and the number of
                candidates only.
            candidates: embeddings that are drawn per prompt.

        Returns:
            [B, E], float32, norm 1 like the embeddings that decoders are trained on (the paper
            does not say whether samples are normalised).

        Raises:
            ValueError: if the counts differ or are below 1, or a prompt is too long.
        """
        if not prompts or len(prompts) != len(generators):
            raise ValueError(
                f"got {len(prompts)} prompts and {len(generators)} generators, wanted as many"
            )
        if candidates < 1:
            raise ValueError(f"candidates={candidates}, wanted at least 1")
        text = self._read(prompts)
        # Candidates of a prompt are rows in a row, and take turns with the prompt's generator.
        sources = [one for one in generators for _ in range(candidates)]
        noise = [torch.randn(self.prior.embedding_width, generator=one) for one in sources]
        drawn = sample(
            self._denoiser(text, sampler=sampler, prompts=prompts, candidates=candidates),
            torch.stack(noise).to(self._device),
            objective=self.objective,
            config=sampler,
            generators=sources,
        )
        return closest(unit(drawn).unflatten(0, (-1, candidates)), text.embedding_BE)

    @property
    def _device(self) -> torch.device:
        return next(self.prior.parameters()).device

    def _denoiser(
        self, text: PairText, *, sampler: SamplerConfig, prompts: Sequence[str], candidates: int
    ) -> Denoise:
        conditional = self._bind(text.repeated(candidates))
        if sampler.guidance.scale == 1.0:
            return conditional
        times = [moment.t for moment in grid_of(self.objective, config=sampler)[:-1]]
        twice = self._read([*prompts, *[EMPTY_CAPTION] * len(prompts)])
        return guided(
            conditional=conditional,
            both=self._bind(twice.repeated(candidates)),
            config=sampler.guidance,
            times=times,
        )

    def _bind(self, text: PairText) -> Denoise:
        def denoise(x_BE: Tensor, t_B: Tensor) -> Tensor:
            return self.prior(x_BE, t_B, text)

        return denoise

    def _read(self, captions: Sequence[str]) -> PairText:
        return self.pair.text(self.pair.tokenize(list(captions)).to(self._device))


def closest(candidates_BNE: Tensor, text_BE: Tensor) -> Tensor:
    """Of each prompt's candidates the one with the largest product with its text, [B, E].

    Source: Ramesh et al. 2022, arXiv:2204.06125, section 2.2 (two candidates there).
    """
    product_BN = (candidates_BNE @ text_BE[..., None].to(candidates_BNE)).squeeze(-1)
    rows_B = torch.arange(len(text_BE), device=text_BE.device)
    return candidates_BNE[rows_B, product_BN.argmax(dim=1)]
