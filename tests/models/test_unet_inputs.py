"""Conditions of the U-Net: each has influence, captions per clip or frame, what is refused."""

from typing import Any

import pytest
import torch

from models.nn.unet import UNetInputs
from models.nn.unet_config import UNetConfig
from tests.models.unets import (
    ADM,
    IMAGE_WIDTH,
    LAYOUTS,
    TEXT_WIDTH,
    clips,
    fresh,
    inputs_for,
    plain,
    random,
    replace,
    stirred,
    text_states,
    times,
)

every_layout = pytest.mark.parametrize("config", LAYOUTS.values(), ids=LAYOUTS)


def changed(inputs: UNetInputs, name: str) -> UNetInputs:
    """Another value for one input."""
    value = getattr(inputs, name)
    if name == "text":
        tokens_BLD = value.tokens_BLD.clone()
        tokens_BLD[:, 0] = -tokens_BLD[:, 0]
        return replace(inputs, text=type(value)(tokens_BLD, value.mask_BL, value.pooled_BD))
    return replace(inputs, **{name: value + 0.5 if name == "augmentation_B" else 2 * value})


@torch.no_grad()
@every_layout
@pytest.mark.parametrize(
    "name",
    [
        "text",
        "image_embedding_GE",
        "fps_B",
        "augmentation_B",
        "low_resolution_BCTHW",
        "given_BCTHW",
    ],
)
def test_every_condition_has_influence(config: UNetConfig, name: str) -> None:
    unet, x_BCTHW = stirred(config), clips()
    inputs = inputs_for(config, x_BCTHW)
    base = unet(x_BCTHW, times(), inputs)
    other = unet(x_BCTHW, times(), changed(inputs, name))
    assert bool(((other - base).abs().amax(dim=(1, 2, 3, 4)) > 1e-3).all())


@torch.no_grad()
@every_layout
def test_time_and_mask_of_given_frames_have_influence(config: UNetConfig) -> None:
    unet, x_BCTHW = stirred(config), clips()
    inputs = inputs_for(config, x_BCTHW)
    base = unet(x_BCTHW, times(), inputs)
    assert inputs.given_BCTHW is not None
    bare_BCTHW = inputs.given_BCTHW.clone()
    bare_BCTHW[:, 3] = 0.0
    for other in (
        unet(x_BCTHW, times() + 0.05, inputs),
        unet(x_BCTHW, times(), replace(inputs, given_BCTHW=bare_BCTHW)),
    ):
        assert bool(((other - base).abs().amax(dim=(1, 2, 3, 4)) > 1e-3).all())


@torch.no_grad()
@pytest.mark.parametrize("context_attention", [(), (1,)])
def test_image_embedding_alone_conditions(context_attention: tuple[int, ...]) -> None:
    fields: dict[str, Any] = {"image_embedding": IMAGE_WIDTH}
    config = plain(ADM, context_attention=context_attention, **fields)
    unet, x_BCTHW = stirred(config), clips()
    outs = [
        unet(x_BCTHW, times(), UNetInputs(image_embedding_GE=random(2, IMAGE_WIDTH, seed=seed)))
        for seed in (0, 1)
    ]
    assert not torch.allclose(outs[0], outs[1], atol=1e-3)


@torch.no_grad()
def test_text_reaches_the_output_by_attention_and_by_its_pooled_vector() -> None:
    x_BCTHW = clips()
    inputs = inputs_for(ADM, x_BCTHW)
    for closed in ("context.attention.out", "conditioning.text.pooled"):
        unet = stirred(ADM)
        for name, weight in unet.named_parameters():
            if closed in name:
                weight.zero_()
        base = unet(x_BCTHW, times(), inputs)
        assert not torch.allclose(unet(x_BCTHW, times(), changed(inputs, "text")), base, atol=1e-3)


def test_a_network_that_reads_no_text_has_no_weights_for_it() -> None:
    names = [name for name, _ in fresh(plain(ADM)).named_parameters()]
    assert [name for name in names if "text" in name or "context" in name] == []


@torch.no_grad()
@every_layout
def test_masked_text_has_no_influence(config: UNetConfig) -> None:
    unet, x_BCTHW = stirred(config).double(), clips().double()
    inputs = inputs_for(config, x_BCTHW)
    text = inputs.text
    assert text is not None
    noise = 1e3 * random(*text.tokens_BLD.shape, seed=5)
    tokens_BLD = text.tokens_BLD.where(text.mask_BL[..., None], noise)
    other = type(text)(tokens_BLD, text.mask_BL, text.pooled_BD)
    found = unet(x_BCTHW, times(), replace(inputs, text=other))
    assert torch.equal(found, unet(x_BCTHW, times(), inputs))


@torch.no_grad()
@every_layout
def test_captions_of_frames_are_those_of_their_clip_when_they_agree(config: UNetConfig) -> None:
    unet, x_BCTHW = stirred(config).double(), clips().double()
    inputs = inputs_for(config, x_BCTHW)
    text, image_GE = inputs.text, inputs.image_embedding_GE
    assert text is not None
    assert image_GE is not None
    spread = type(text)(*(one.repeat_interleave(3, dim=0) for one in vars(text).values()))
    expected = unet(x_BCTHW, times(), inputs)
    for fields in (
        {"text": spread},
        {"text": spread, "image_embedding_GE": image_GE.repeat_interleave(3, dim=0)},
    ):
        found = unet(x_BCTHW, times(), replace(inputs, **fields))
        # Float64; attention over batches of another shape sums in another order.
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
@every_layout
def test_independent_images_have_captions_of_their_own(config: UNetConfig) -> None:
    unet, x_BCTHW = stirred(config).double(), clips(batch=1, frames=3).double()
    inputs = replace(inputs_for(config, x_BCTHW, captions=3), video_B=torch.tensor([False]))
    packed = unet(x_BCTHW, times(1), inputs)
    # The same three images as three clips of one frame.
    apart = x_BCTHW[0].transpose(0, 1)[:, :, None]
    low, given = inputs.low_resolution_BCTHW, inputs.given_BCTHW
    assert low is not None
    assert given is not None
    assert inputs.fps_B is not None
    assert inputs.augmentation_B is not None
    single = replace(
        inputs,
        video_B=None,
        fps_B=inputs.fps_B.repeat(3),
        augmentation_B=inputs.augmentation_B.repeat(3),
        low_resolution_BCTHW=low[0].transpose(0, 1)[:, :, None],
        given_BCTHW=given[0].transpose(0, 1)[:, :, None],
    )
    found = unet(apart, times(1).repeat(3), single)
    torch.testing.assert_close(packed[0].transpose(0, 1), found[:, :, 0], rtol=1e-9, atol=1e-9)


X = clips()
FULL = inputs_for(ADM, X)


@pytest.mark.parametrize(
    "name", [name for name in vars(FULL) if name not in ("video_B", "dropout_B")]
)
def test_missing_and_unread_inputs_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}=None, wanted it: the network reads"):
        fresh(ADM)(X, times(), replace(FULL, **{name: None}))
    config = plain(ADM)
    with pytest.raises(ValueError, match=rf"{name} is given, wanted None: the network reads no"):
        fresh(config)(X, times(), UNetInputs(**{name: getattr(FULL, name)}))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text": text_states(3)}, rf"text has shape \[3, {TEXT_WIDTH}\], wanted \[2, .* or \[6"),
        ({"image_embedding_GE": random(2, 7)}, r"has shape \[2, 7\], wanted \[2, 6\] or \[6, 6\]"),
        ({"fps_B": random(3)}, r"fps_B has shape \[3\], wanted \[2\]"),
        ({"augmentation_B": random(2, 1)}, r"augmentation_B has shape \[2, 1\], wanted \[2\]"),
        ({"low_resolution_BCTHW": random(2, 3, 3, 4, 4)}, r"\[2, 3, 3, 4, 4\], wanted \[2, 3, 3"),
        ({"given_BCTHW": random(2, 3, 3, 8, 8)}, r"\[2, 3, 3, 8, 8\], wanted \[2, 4, 3, 8, 8\]"),
        ({"video_B": torch.tensor([True])}, r"video_B has shape \[1\], wanted \[2\]"),
        ({"video_B": torch.ones(2)}, r"video_B is torch.float32, wanted torch.bool"),
    ],
)
def test_inputs_of_another_shape_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fresh(ADM)(X, times(), replace(FULL, **fields))


def test_clips_of_another_shape_are_refused() -> None:
    unet = fresh(plain(ADM))
    with pytest.raises(ValueError, match="x has 4 channels, wanted 3"):
        unet(random(2, 4, 3, 8, 8), times())
    with pytest.raises(ValueError, match=r"t_B has shape \[3\], wanted \[2\]"):
        unet(X, times(3))
