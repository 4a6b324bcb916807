"""The diffusion transformer as a whole: shapes, text, given frames, gradients."""

import dataclasses

import pytest
import torch
from torch import Tensor

from models.sora.dit import Condition
from models.sora.dit_config import DiTConfig
from models.sora.model import TextToVideo
from models.text.config import Byt5Config
from models.text.encoder import build_text_encoder
from models.text.states import TextStates
from tests.models.dits import (
    CHANNELS,
    CROSS,
    FUSIONS,
    TEXT_WIDTH,
    fresh,
    latents,
    stirred,
    text_states,
    times,
)

every_fusion = pytest.mark.parametrize("config", FUSIONS.values(), ids=FUSIONS)


@every_fusion
def test_any_grid_goes_through_one_model(config: DiTConfig) -> None:
    dit = stirred(config)
    for size in [(1, 4, 4), (3, 4, 4), (2, 6, 4), (5, 2, 8)]:
        x_BCTHW = latents(*size)
        assert dit(x_BCTHW, times(), text_states()).shape == x_BCTHW.shape


def test_patch_in_time_divides_frames() -> None:
    dit = stirred(CROSS.model_copy(update={"patch": (2, 1, 2)}))
    x_BCTHW = latents(4, 3, 4)
    assert dit(x_BCTHW, times(), text_states()).shape == x_BCTHW.shape


def test_grid_that_the_patch_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 5, 4\].*multiples of patch=\[1, 2, 2\]"):
        fresh(CROSS)(latents(3, 5, 4), times(), text_states())


def test_other_channels_or_text_width_are_refused() -> None:
    dit = fresh(CROSS)
    with pytest.raises(ValueError, match="5 channels, wanted 4"):
        dit(latents(1, 2, 2, channels=5), times(), text_states())
    text = text_states()
    wide = dataclasses.replace(text, tokens_BLD=text.tokens_BLD.repeat(1, 1, 2))
    with pytest.raises(ValueError, match=f"width {2 * TEXT_WIDTH}, wanted {TEXT_WIDTH}"):
        dit(latents(1, 2, 2), times(), wide)


@every_fusion
def test_fresh_model_predicts_zero(config: DiTConfig) -> None:
    prediction = fresh(config)(latents(2, 4, 4), times(), text_states())
    assert torch.equal(prediction, torch.zeros_like(prediction))


@every_fusion
def test_masked_text_has_no_influence(config: DiTConfig) -> None:
    dit = stirred(config).double()
    text = text_states()
    noise = 1e3 * torch.randn(text.tokens_BLD.shape, generator=torch.Generator().manual_seed(2))
    masked = text.mask_BL[..., None]
    other = dataclasses.replace(text, tokens_BLD=text.tokens_BLD.where(masked, noise))
    x_BCTHW = latents(2, 4, 4).double()
    assert torch.equal(dit(x_BCTHW, times(), text), dit(x_BCTHW, times(), other))


@every_fusion
def test_padding_of_the_text_has_no_influence(config: DiTConfig) -> None:
    dit = stirred(config).double()
    text = text_states()
    padded = TextStates(
        tokens_BLD=torch.nn.functional.pad(text.tokens_BLD, (0, 0, 0, 3), value=7.0),
        mask_BL=torch.nn.functional.pad(text.mask_BL, (0, 3)),
        pooled_BD=text.pooled_BD,
    )
    x_BCTHW = latents(2, 4, 4).double()
    # Float64; the sums of a longer attention run in another order.
    torch.testing.assert_close(
        dit(x_BCTHW, times(), padded), dit(x_BCTHW, times(), text), rtol=1e-9, atol=1e-9
    )


@every_fusion
def test_real_text_time_and_pooled_text_have_influence(config: DiTConfig) -> None:
    dit = stirred(config)
    text, x_BCTHW = text_states(), latents(2, 4, 4)
    base = dit(x_BCTHW, times(), text)
    tokens_BLD = text.tokens_BLD.clone()
    tokens_BLD[:, 0] += 1
    changes = [
        dit(x_BCTHW, times(), dataclasses.replace(text, tokens_BLD=tokens_BLD)),
        dit(x_BCTHW, times(), dataclasses.replace(text, pooled_BD=-text.pooled_BD)),
        dit(x_BCTHW, times() + 0.05, text),
    ]
    for changed in changes:
        assert bool(((changed - base).abs().amax(dim=(1, 2, 3, 4)) > 1e-3).all())


@every_fusion
def test_clips_of_a_batch_do_not_see_each_other(config: DiTConfig) -> None:
    dit = stirred(config).double()
    x_BCTHW, text = latents(2, 4, 4).double(), text_states()
    both = dit(x_BCTHW, times(), text)
    alone = TextStates(
        tokens_BLD=text.tokens_BLD[1:], mask_BL=text.mask_BL[1:], pooled_BD=text.pooled_BD[1:]
    )
    torch.testing.assert_close(dit(x_BCTHW[1:], times()[1:], alone), both[1:], rtol=1e-9, atol=1e-9)


def test_every_cell_sees_every_other() -> None:
    dit = stirred(CROSS)
    x_BCTHW = latents(3, 4, 4).requires_grad_()
    dit(x_BCTHW, times(), text_states())[0, 0, 2, 3, 3].backward()
    assert x_BCTHW.grad is not None
    assert bool((x_BCTHW.grad[0].abs().sum(dim=0) > 0).all())
    assert not bool(x_BCTHW.grad[1].any())


def condition_for(x_BCTHW: Tensor) -> Condition:
    mask_B1THW = torch.zeros_like(x_BCTHW[:, :1])
    mask_B1THW[:, :, 0] = 1
    return Condition(latents_BCTHW=x_BCTHW * mask_B1THW, mask_B1THW=mask_B1THW)


@every_fusion
def test_given_frames_start_without_influence_and_learn(config: DiTConfig) -> None:
    dit = stirred(config.model_copy(update={"condition_frames": True}))
    assert dit.condition_in is not None
    torch.nn.init.zeros_(dit.condition_in.weight)
    x_BCTHW = latents(3, 4, 4)
    free = dit(x_BCTHW, times(), text_states())
    given = dit(x_BCTHW, times(), text_states(), condition_for(x_BCTHW))
    assert torch.equal(free, given)
    given.square().mean().backward()
    assert dit.condition_in.weight.grad is not None
    # The weights of the latents' channels and of the mask, the last channel of a patch.
    gradient = dit.condition_in.weight.grad.unflatten(1, (CHANNELS + 1, -1)).abs().sum(dim=(0, 2))
    assert bool((gradient > 0).all())


def test_given_latents_and_their_mask_both_count() -> None:
    dit = stirred(CROSS.model_copy(update={"condition_frames": True}))
    x_BCTHW = latents(3, 4, 4)
    given = condition_for(x_BCTHW)
    base = dit(x_BCTHW, times(), text_states(), given)
    other = dataclasses.replace(given, latents_BCTHW=-given.latents_BCTHW)
    bare = dataclasses.replace(given, mask_B1THW=torch.zeros_like(given.mask_B1THW))
    for changed in (other, bare):
        assert not torch.allclose(dit(x_BCTHW, times(), text_states(), changed), base, atol=1e-3)


def test_fresh_condition_weights_are_zero() -> None:
    dit = fresh(CROSS.model_copy(update={"condition_frames": True}))
    assert dit.condition_in is not None
    assert not bool(dit.condition_in.weight.any())


def test_frames_given_to_a_model_without_them_are_refused() -> None:
    x_BCTHW = latents(3, 4, 4)
    with pytest.raises(ValueError, match="condition_frames=true"):
        fresh(CROSS)(x_BCTHW, times(), text_states(), condition_for(x_BCTHW))


@every_fusion
def test_every_weight_gets_a_gradient(config: DiTConfig) -> None:
    dit = stirred(config.model_copy(update={"condition_frames": True}))
    x_BCTHW = latents(2, 4, 4)
    dit(x_BCTHW, times(), text_states(), condition_for(x_BCTHW)).square().mean().backward()
    without = [
        name
        for name, weight in dit.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    assert without == []


@every_fusion
def test_gradient_reaches_the_text_encoder(config: DiTConfig) -> None:
    torch.manual_seed(0)
    text = build_text_encoder(Byt5Config(width=TEXT_WIDTH, heads=2, depth=1))
    model = TextToVideo(config, channels=CHANNELS, text_width=TEXT_WIDTH, text=text)
    model.dit.load_state_dict(stirred(config).state_dict())
    tokens = text.tokenize(["a red three moving left", "up"])
    model(latents(2, 4, 4), times(), tokens).square().mean().backward()
    for name, weight in text.named_parameters():
        assert weight.grad is not None, name
        assert bool(weight.grad.any()), name


def test_bf16_stays_near_float32() -> None:
    dit = stirred(CROSS, std=0.05)
    x_BCTHW = latents(2, 4, 4)
    with torch.no_grad():
        exact = dit(x_BCTHW, times(), text_states())
        rough = dit.bfloat16()(x_BCTHW.bfloat16(), times(), text_states())
    assert rough.dtype == torch.bfloat16
    # Eight bits of mantissa through some twenty roundings.
    error = (rough.float() - exact).norm() / exact.norm()
    assert float(error) < 0.03
