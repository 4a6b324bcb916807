"""From prompts to image embeddings: candidates, guidance, and what an embedding depends on."""

import itertools

import pytest
import torch
from torch import Generator, Tensor

from models.diffusion.config import (
    GuidanceConfig,
    OscillationConfig,
    SamplerConfig,
)
from models.diffusion.guidance import guided
from models.diffusion.samplers import sample
from models.make_a_video.sample_prior import PriorChain, closest
from models.text.pair_states import unit
from tests.models.priors import CHAIN_EMBEDDING, small_chain

PROMPTS = ["a red three", "a handwritten nine in blue", "the digit one, drawn in green"]
SEEDS = [1, 2, 3]
ROUNDING = 1e-5  # float32 over a few steps and layers; other matrix sizes round otherwise
DDIM = SamplerConfig(kind="ddim", steps=4)
ANCESTRAL = SamplerConfig(kind="ddpm", steps=4)
GUIDED = SamplerConfig(
    kind="ddim", steps=4, guidance=GuidanceConfig(scale=3.0, interval=(0.3, 0.8))
)
every_sampler = pytest.mark.parametrize("sampler", [DDIM, ANCESTRAL, GUIDED])


@pytest.fixture(scope="module")
def chain() -> PriorChain:
    return small_chain()


def seeded() -> list[Generator]:
    return [Generator().manual_seed(seed) for seed in SEEDS]


@torch.no_grad()
def candidates_by_hand(
    chain: PriorChain, prompt: str, *, sampler: SamplerConfig, seed: int, count: int
) -> tuple[Tensor, Tensor]:
    """Candidates [count, E] of one prompt, all drawn from one generator, and its text [E]."""
    generator = Generator().manual_seed(seed)
    noise = torch.stack([torch.randn(CHAIN_EMBEDDING, generator=generator) for _ in range(count)])
    with_text = chain.pair.text(chain.pair.tokenize([prompt] * count))
    both = chain.pair.text(chain.pair.tokenize([prompt] * count + [""] * count))
    drawn = sample(
        guided(
            conditional=lambda x, t: chain.prior(x, t, with_text),
            both=lambda x, t: chain.prior(x, t, both),
            config=sampler.guidance,
        ),
        noise,
        objective=chain.objective,
        config=sampler,
        generators=[generator] * count,
    )
    return drawn / drawn.norm(dim=1, keepdim=True), with_text.embedding_BE[0]


@every_sampler
def test_the_candidate_with_the_largest_product_is_kept(
    chain: PriorChain, sampler: SamplerConfig
) -> None:
    found = chain.sample(PROMPTS, sampler=sampler, generators=seeded(), candidates=5)
    assert found.shape == (3, CHAIN_EMBEDDING)
    for index, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        drawn, text_E = candidates_by_hand(chain, prompt, sampler=sampler, seed=seed, count=5)
        best = max(drawn, key=lambda one: float(one @ text_E))
        torch.testing.assert_close(found[index], best, rtol=0, atol=ROUNDING)


def test_two_candidates_are_the_default(chain: PriorChain) -> None:
    found = chain.sample(PROMPTS, sampler=DDIM, generators=seeded())
    two = chain.sample(PROMPTS, sampler=DDIM, generators=seeded(), candidates=2)
    assert torch.equal(found, two)


def test_closest_takes_each_rows_own_best() -> None:
    candidates = torch.eye(3).expand(3, 3, 3)
    text_BE = torch.tensor([[0.1, 0.9, 0.3], [-1.0, -2.0, -0.5], [3.0, 1.0, 2.0]])
    assert torch.equal(closest(candidates, text_BE), torch.eye(3)[[1, 2, 0]])


def test_more_candidates_never_lower_the_product(chain: PriorChain) -> None:
    text_BE = chain.pair.text(chain.pair.tokenize(PROMPTS)).embedding_BE
    products = [
        (chain.sample(PROMPTS, sampler=DDIM, generators=seeded(), candidates=count) * text_BE).sum(
            dim=1
        )
        for count in (1, 2, 8)
    ]
    for fewer, more in itertools.pairwise(products):
        assert (more >= fewer - ROUNDING).all()
    assert (products[-1] > products[0] + ROUNDING).any()


@every_sampler
def test_an_embedding_does_not_depend_on_its_batch_mates(
    chain: PriorChain, sampler: SamplerConfig
) -> None:
    together = chain.sample(PROMPTS, sampler=sampler, generators=seeded())
    alone = chain.sample(PROMPTS[:1], sampler=sampler, generators=seeded()[:1])
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=ROUNDING)


def test_embeddings_have_norm_one(chain: PriorChain) -> None:
    found = chain.sample(PROMPTS, sampler=ANCESTRAL, generators=seeded())
    torch.testing.assert_close(found, unit(found))


def test_an_oscillating_scale_is_counted_in_the_samplers_steps(chain: PriorChain) -> None:
    always = OscillationConfig(constant_share=1.0)
    swinging = DDIM.model_copy(update={"guidance": GuidanceConfig(scale=3.0, oscillation=always)})
    constant = DDIM.model_copy(update={"guidance": GuidanceConfig(scale=3.0)})
    found = chain.sample(PROMPTS, sampler=swinging, generators=seeded())
    torch.testing.assert_close(found, chain.sample(PROMPTS, sampler=constant, generators=seeded()))


def test_counts_that_do_not_fit_are_refused(chain: PriorChain) -> None:
    with pytest.raises(ValueError, match="got 3 prompts and 2 generators"):
        chain.sample(PROMPTS, sampler=DDIM, generators=seeded()[:2])
    with pytest.raises(ValueError, match="candidates=0, wanted at least 1"):
        chain.sample(PROMPTS, sampler=DDIM, generators=seeded(), candidates=0)
