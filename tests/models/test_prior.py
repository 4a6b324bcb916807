"""The diffusion prior against its formula, and what it learns on data with a known answer.

Shape letters: L words, M tokens of the sequence, D model width, E width of an embedding.
"""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.diffusion.config import DiffusionConfig
from models.diffusion.objective import build_objective
from models.make_a_video.prior import Prior
from models.make_a_video.prior_config import PriorConfig
from models.text.pair_states import PairText
from models.text.states import TextStates
from tests.models.priors import (
    EMBEDDING,
    SMALL,
    TEXT_TOKENS,
    TEXT_WIDTH,
    checkpoint_blocks,
    double,
    fresh,
    pair_text,
    random,
    stirred,
)

TIMES = torch.tensor([0.2, 0.9])
X0 = build_objective(DiffusionConfig(kind="x0"))


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * weight


@torch.no_grad()
def prior_by_formula(
    prior: Prior, x_E: Tensor, t: Tensor, words_LS: Tensor, text_E: Tensor
) -> Tensor:
    """One caption without padding, one token, one head and one earlier token at a time."""
    w = dict(prior.named_parameters())

    def linear(x: Tensor, name: str) -> Tensor:
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        away = x - x.mean()
        return away / (away.square().mean() + 1e-6).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    positions = w["sequence.positions"]
    rows = [
        linear(rms(word, w["sequence.word_norm.weight"]), "sequence.words") for word in words_LS
    ]
    rows = [row + positions[i] for i, row in enumerate(rows)]
    rows += [
        linear(prior.scale * text_E, "sequence.text") + positions[TEXT_TOKENS],
        prior.sequence.time(t[None])[0] + positions[TEXT_TOKENS + 1],
        linear(x_E, "sequence.image") + positions[TEXT_TOKENS + 2],
        positions[TEXT_TOKENS + 3],
    ]
    heads, head_width = prior.config.heads, prior.config.width // prior.config.heads
    for index in range(prior.config.depth):
        at = f"layers.{index}"
        qkv = [
            linear(norm(row, f"{at}.attention_norm"), f"{at}.attention.qkv").view(
                3, heads, head_width
            )
            for row in rows
        ]
        query_weight = w[f"{at}.attention.norm.query.weight"]
        key_weight = w[f"{at}.attention.norm.key.weight"]
        for n, row in enumerate(list(rows)):
            gathered = []
            for h in range(heads):
                query = rms(qkv[n][0, h], query_weight)
                logits = torch.stack(
                    [query @ rms(qkv[m][1, h], key_weight) for m in range(n + 1)]
                ) / math.sqrt(head_width)
                share = logits.exp() / logits.exp().sum()
                gathered.append(sum(share[m] * qkv[m][2, h] for m in range(n + 1)))
            row = row + linear(torch.cat(gathered), f"{at}.attention_out")
            hidden = gelu(linear(norm(row, f"{at}.mlp_norm"), f"{at}.mlp_hidden"))
            rows[n] = row + linear(hidden, f"{at}.mlp_out")
    return linear(norm(rows[-1], "norm"), "out")


def test_prior_is_the_formula_for_padded_captions_too() -> None:
    prior, text = stirred().double(), double(pair_text())
    x_BE = random(2, EMBEDDING).double()
    # The output is made float32; its rounding is all that differs.
    actual = prior(x_BE, TIMES, text)
    assert actual.dtype == torch.float32
    for index in range(2):
        words_LS = text.states.tokens_BLD[index, text.states.mask_BL[index]]
        expected = prior_by_formula(
            prior, x_BE[index], TIMES[index], words_LS, text.embedding_BE[index]
        )
        torch.testing.assert_close(actual[index].double(), expected, rtol=1e-6, atol=1e-6)


def tokens_after_the_blocks(prior: Prior, x_BE: Tensor, t_B: Tensor, text: PairText) -> Tensor:
    seen: list[Tensor] = []
    handle = prior.layers[-1].register_forward_hook(lambda *call: seen.append(call[-1]))
    prior(x_BE, t_B, text)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("changed", [0, 2, 4, 5, 6, 7])
def test_a_token_changes_nothing_before_it(changed: int) -> None:
    """Tokens 0 to 4 are words, 5 the text embedding, 6 the time, 7 the noisy embedding."""
    prior, text = stirred().double(), double(pair_text(captions=1))
    x_BE, t_B = random(1, EMBEDDING).double(), TIMES[:1]
    before = tokens_after_the_blocks(prior, x_BE, t_B, text)
    if changed < 5:
        words = text.states.tokens_BLD.clone()
        words[:, changed] += random(1, TEXT_WIDTH)
        text = replace(text, states=replace(text.states, tokens_BLD=words))
    elif changed == 5:
        text = replace(text, embedding_BE=-text.embedding_BE)
    elif changed == 6:
        t_B = t_B + 0.3
    else:
        x_BE = x_BE + 1.0
    after = tokens_after_the_blocks(prior, x_BE, t_B, text)
    # Float64; the masked tokens have a weight of exactly 0.
    torch.testing.assert_close(after[:, :changed], before[:, :changed], rtol=0, atol=1e-12)
    moved = (after - before)[:, changed:].abs().amax(dim=-1)
    assert moved.min() > 1e-6


def test_a_longer_batch_mate_changes_nothing() -> None:
    prior, text = stirred().double(), double(pair_text(tokens=7))
    x_BE = random(2, EMBEDDING).double()
    states = text.states
    short = PairText(
        states=TextStates(states.tokens_BLD[1:, :6], states.mask_BL[1:, :6], states.pooled_BD[1:]),
        embedding_BE=text.embedding_BE[1:],
    )
    alone = prior(x_BE[1:], TIMES[1:], short)
    torch.testing.assert_close(alone, prior(x_BE, TIMES, text)[1:], rtol=1e-6, atol=1e-6)


def test_a_fresh_prior_predicts_zero_and_trains_every_weight() -> None:
    prior = fresh()
    out = prior(random(2, EMBEDDING), TIMES, pair_text())
    assert torch.equal(out, torch.zeros(2, EMBEDDING))
    X0.loss(out, random(2, EMBEDDING), random(2, EMBEDDING), TIMES).mean().backward()
    assert all(weight.grad is not None for weight in prior.parameters())


def test_checkpointed_blocks_give_the_same_bits() -> None:
    gradients: list[list[Tensor]] = []
    for recompute in (False, True):
        prior = stirred()
        if recompute:
            checkpoint_blocks(prior.blocks())
        prior(random(2, EMBEDDING), TIMES, pair_text()).square().mean().backward()
        gradients.append([w.grad for w in prior.parameters() if w.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) == len(list(fresh().parameters()))
    assert all(map(torch.equal, *gradients))


def test_bf16_weights_see_times_in_float32() -> None:
    """Times that bf16 cannot tell apart give different outputs."""
    prior = stirred().bfloat16()
    x_BE, text = random(1, EMBEDDING), pair_text(captions=1)
    near, far = torch.tensor([0.9023]), torch.tensor([0.9028])
    assert near.bfloat16().equal(far.bfloat16())
    out = prior(x_BE, near, text)
    assert out.dtype == torch.float32
    assert not torch.equal(out, prior(x_BE, far, text))


def test_scale_defaults_to_the_root_of_the_width() -> None:
    assert fresh(embedding=EMBEDDING).scale == pytest.approx(math.sqrt(EMBEDDING))
    assert fresh(SMALL.model_copy(update={"scale": 17.2})).scale == 17.2


def count(config: PriorConfig, *, embedding: int, text_width: int) -> int:
    with torch.device("meta"):
        prior = Prior(config, embedding_width=embedding, text_width=text_width)
    assert all(weight.is_meta for weight in prior.parameters())
    assert len(prior.blocks()) == config.depth
    return sum(weight.numel() for weight in prior.parameters())


def test_karlos_prior_has_the_published_count() -> None:
    # Karlo's prior, by the shapes in its published code: 20 blocks of 12 D^2 + 13 D, two D x D
    # layers for the time, linears from and to 768, 81 positions and a final token: "1B".
    width, embedding = 2048, 768
    published = 20 * (12 * width**2 + 13 * width) + 2 * (width**2 + width) + 2 * width
    published += 3 * (embedding * width + width) + width * embedding + embedding
    published += 81 * width + width
    assert published == pytest.approx(1.0e9, rel=0.03)
    config = PriorConfig(width=width, heads=32, depth=20, text_tokens=77)
    ours = count(config, embedding=embedding, text_width=embedding)
    # Ours: 256 sinusoids into the time instead of D, qk-norm, a norm on the text.
    assert ours == pytest.approx(published, rel=0.005)


def test_dalle_2_shape_has_about_a_billion_weights() -> None:
    # 24 blocks of width 2048 (DALL-E 2, table 3) hold 12 D^2 each, 1.21e9 together, before any
    # input is counted; the table says "1B".
    config = PriorConfig(width=2048, heads=32, depth=24, text_tokens=256, scale=17.2)
    ours = count(config, embedding=1024, text_width=1024)
    assert ours == pytest.approx(24 * 12 * 2048**2, rel=0.015)
    assert round(ours / 1e9) == 1


@pytest.mark.parametrize(
    ("embedding", "text_width", "tokens", "words"),
    [
        (5, TEXT_WIDTH, 4, r"widths \(5, 6\), wanted 6"),
        (EMBEDDING, 3, 4, "text has width 3, wanted 10"),
        (EMBEDDING, TEXT_WIDTH, 8, "captions of 8 tokens, wanted at most text_tokens=7"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    embedding: int, text_width: int, tokens: int, words: str
) -> None:
    text = pair_text(tokens=tokens)
    states = replace(text.states, tokens_BLD=text.states.tokens_BLD[..., :text_width])
    with pytest.raises(ValueError, match=words):
        fresh()(random(2, embedding), TIMES, replace(text, states=states))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValidationError, match="width=10 is not a multiple of heads=4"):
        PriorConfig(width=10, heads=4, depth=1)


SPACE, SPREAD = 6, 0.5


def linear_gaussian(pairs: int, *, generator: torch.Generator) -> tuple[PairText, Tensor, Tensor]:
    """Captions, the mean of their image embeddings, and one draw around it (scaled).

    The mean is a fixed rotation of the text embedding; the words say nothing.
    """
    turn = torch.linalg.qr(torch.randn(SPACE, SPACE, generator=torch.Generator().manual_seed(7))).Q
    text_BE = torch.randn(pairs, SPACE, generator=generator) / math.sqrt(SPACE)
    mean_BE = math.sqrt(SPACE) * text_BE @ turn.T
    states = TextStates(
        tokens_BLD=torch.ones(pairs, 1, TEXT_WIDTH),
        mask_BL=torch.ones(pairs, 1, dtype=torch.bool),
        pooled_BD=torch.ones(pairs, TEXT_WIDTH),
    )
    noise = torch.randn(pairs, SPACE, generator=generator)
    return PairText(states=states, embedding_BE=text_BE), mean_BE, mean_BE + SPREAD * noise


def test_training_finds_the_posterior_mean() -> None:
    """At every noise level the best prediction is known: the mean, moved towards what is seen."""
    torch.manual_seed(0)
    config = PriorConfig(width=32, heads=2, depth=2, text_tokens=1)
    prior = Prior(config, embedding_width=SPACE, text_width=TEXT_WIDTH)
    generator = torch.Generator().manual_seed(1)
    steps = 400
    optimizer = torch.optim.AdamW(prior.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        text, _, x_BE = linear_gaussian(256, generator=generator)
        t_B = X0.sample_time(torch.rand(256, generator=generator))
        noise_BE = torch.randn(x_BE.shape, generator=generator)
        out = prior(X0.corrupt(x_BE, noise_BE, t_B), t_B, text)
        loss = X0.loss(out, x_BE, noise_BE, t_B).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for time in (0.3, 0.6, 1.0):
        text, mean_BE, x_BE = linear_gaussian(1024, generator=generator)
        t_B = torch.full((1024,), time)
        shares = X0.coefficients(t_B[:1])
        alpha, sigma = float(shares.alpha_B), float(shares.sigma_B)
        noisy_BE = alpha * x_BE + sigma * torch.randn(x_BE.shape, generator=generator)
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        best_BE = mean_BE + gain * (noisy_BE - alpha * mean_BE)
        with torch.no_grad():
            error = (prior(noisy_BE, t_B, text) - best_BE).square().mean()
        guess = (math.sqrt(SPACE) * text.embedding_BE - best_BE).square().mean()
        # What is left is a small part of the variance that a caption leaves open, SPREAD^2.
        assert error < 0.1 * SPREAD**2
        assert error < 0.05 * guess
