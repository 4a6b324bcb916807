"""The space-time U-Net as a whole: videos and images, growing from an image network, sizes."""

import pytest
import torch
from torch import Tensor

from models.nn.unet import SpaceTimeUNet
from models.nn.unet_config import UNetConfig
from tests.models.unets import (
    ADM,
    EFFICIENT,
    LAYOUTS,
    clips,
    fresh,
    image_config,
    inputs_for,
    part,
    plain,
    replace,
    stirred,
    times,
)

every_layout = pytest.mark.parametrize("config", LAYOUTS.values(), ids=LAYOUTS)


def gradients(unet: SpaceTimeUNet, x_BCTHW: Tensor, *, video_B: Tensor | None) -> dict[str, Tensor]:
    """Of every weight; a missing one fails."""
    inputs = replace(inputs_for(unet.config, x_BCTHW), video_B=video_B)
    unet.zero_grad()
    unet(x_BCTHW, times(len(x_BCTHW)), inputs).square().mean().backward()
    found = {name: weight.grad for name, weight in unet.named_parameters()}
    assert [name for name, grad in found.items() if grad is None] == []
    return {name: grad for name, grad in found.items() if grad is not None}


@every_layout
@pytest.mark.parametrize("frames", [1, 3])
def test_any_length_and_size_goes_through_one_network(config: UNetConfig, frames: int) -> None:
    unet = stirred(config)
    for size in [(8, 8), (4, 12)]:
        x_BCTHW = clips(frames=frames, size=size)
        out = unet(x_BCTHW, times(), inputs_for(config, x_BCTHW))
        assert out.shape == (2, config.out_channels, frames, *size)
        assert out.dtype == torch.float32
        assert bool(out.isfinite().all())


@every_layout
def test_fresh_network_predicts_zero(config: UNetConfig) -> None:
    x_BCTHW = clips()
    assert not bool(fresh(config)(x_BCTHW, times(), inputs_for(config, x_BCTHW)).any())


@torch.no_grad()
@every_layout
def test_inflated_network_is_the_image_network_bit_by_bit(config: UNetConfig) -> None:
    """Make-A-Video, arXiv:2209.14792, section 3.2.1: at first, frames independent of each other."""
    image = stirred(image_config(config))
    video = fresh(config)
    video.load_smaller(image.state_dict())
    x_BCTHW = clips()
    inputs = inputs_for(config, x_BCTHW)
    expected = image(x_BCTHW, times(), replace(inputs, fps_B=None, given_BCTHW=None))
    assert torch.equal(video(x_BCTHW, times(), inputs), expected)
    assert bool(expected.any())


@torch.no_grad()
@every_layout
def test_interpolation_begins_as_the_video_network_that_it_takes_over(config: UNetConfig) -> None:
    """Make-A-Video, arXiv:2209.14792, section 3.3: four more channels, their weights zero."""
    video = stirred(config.model_copy(update={"given_frames": False}))
    interpolation = fresh(config)
    interpolation.load_smaller(video.state_dict())
    assert interpolation.stem.given is not None
    assert interpolation.stem.given.in_channels == 4
    assert not bool(interpolation.stem.given.weight.any())
    x_BCTHW = clips()
    inputs = inputs_for(config, x_BCTHW)
    expected = video(x_BCTHW, times(), replace(inputs, given_BCTHW=None))
    assert torch.equal(interpolation(x_BCTHW, times(), inputs), expected)
    mixed = x_BCTHW.clone()
    mixed[:, :, 0] = 0.0  # what is perturbed in it mixes frames
    others = video(mixed, times(), replace(inputs, given_BCTHW=None))
    assert not torch.equal(others[:, :, -1], expected[:, :, -1])


@torch.no_grad()
@every_layout
def test_image_network_treats_each_frame_alone(config: UNetConfig) -> None:
    image = stirred(image_config(config)).double()
    x_BCTHW = clips().double()
    inputs = inputs_for(image.config, x_BCTHW)
    whole = image(x_BCTHW, times(), inputs)
    low = inputs.low_resolution_BCTHW
    assert low is not None
    for frame in range(3):
        alone = replace(inputs, low_resolution_BCTHW=low[:, :, frame : frame + 1])
        found = image(x_BCTHW[:, :, frame : frame + 1], times(), alone)
        # Float64; batches of another size sum in another order.
        torch.testing.assert_close(found, whole[:, :, frame : frame + 1], rtol=1e-9, atol=1e-9)


@every_layout
def test_temporal_parameters_are_what_the_image_network_lacks(config: UNetConfig) -> None:
    with torch.device("meta"):
        video, image = fresh(config), fresh(image_config(config))
    others = {name for name in video.state_dict() if "stem.given" in name or ".fps." in name}
    lacking = video.state_dict().keys() - image.state_dict().keys()
    assert video.temporal_parameters().keys() == lacking - others
    weights = dict(video.named_parameters())
    assert all(weight is weights[name] for name, weight in video.temporal_parameters().items())


def test_networks_that_lack_more_or_have_more_are_refused() -> None:
    weights = fresh(image_config(ADM)).state_dict()
    del weights["stem.space.bias"]
    with pytest.raises(ValueError, match=r"lack 1 \(stem.space.bias\) and have 0 too much"):
        fresh(ADM).load_smaller(weights)
    with pytest.raises(ValueError, match=r"lack 0 and have \d+ \(body.down.0"):
        fresh(image_config(ADM)).load_smaller(fresh(ADM).state_dict())


@every_layout
def test_a_video_reaches_every_weight(config: UNetConfig) -> None:
    found = gradients(stirred(config), clips(), video_B=None)
    assert [name for name, grad in found.items() if not bool(grad.any())] == []


@every_layout
@pytest.mark.parametrize("frames", [1, 3])
def test_images_give_temporal_weights_zeros_and_others_more(
    config: UNetConfig, frames: int
) -> None:
    unet = stirred(config)
    video_B = None if frames == 1 else torch.tensor([False, False])
    found = gradients(unet, clips(frames=frames), video_B=video_B)
    zeros = {name for name, grad in found.items() if not bool(grad.any())}
    assert zeros == set(unet.temporal_parameters())


@every_layout
def test_images_beside_a_video_add_nothing_to_temporal_gradients(config: UNetConfig) -> None:
    unet = stirred(config).double()
    x_BCTHW, video_B = clips().double(), torch.tensor([True, False])
    inputs = replace(inputs_for(config, x_BCTHW), video_B=video_B)
    first = slice(1)
    alone = replace(part(inputs, first), video_B=None)
    weights = unet.temporal_parameters()
    found: list[tuple[Tensor, ...]] = []
    for x, t, given in ((x_BCTHW, times(), inputs), (x_BCTHW[first], times()[first], alone)):
        loss = unet(x, t, given).square().sum()
        found.append(torch.autograd.grad(loss, list(weights.values())))
    for mixed, video in zip(*found, strict=True):
        # Float64; batches of another size sum in another order.
        torch.testing.assert_close(mixed, video, rtol=1e-8, atol=1e-9)


@torch.no_grad()
@every_layout
def test_mixed_batch_is_its_parts(config: UNetConfig) -> None:
    unet = stirred(config).double()
    x_BCTHW = clips(batch=3).double()
    inputs = replace(inputs_for(config, x_BCTHW), video_B=torch.tensor([True, False, True]))
    mixed = unet(x_BCTHW, times(3), inputs)
    for clip in range(3):
        only = slice(clip, clip + 1)
        alone = unet(x_BCTHW[only], times(3)[only], part(inputs, only))
        torch.testing.assert_close(mixed[only], alone, rtol=1e-9, atol=1e-9)


@every_layout
def test_frames_see_each_other_in_videos_only(config: UNetConfig) -> None:
    unet = stirred(config)
    x_BCTHW = clips().requires_grad_()
    inputs = replace(inputs_for(config, x_BCTHW), video_B=torch.tensor([True, False]))
    unet(x_BCTHW, times(), inputs)[:, :, 0].sum().backward()
    assert x_BCTHW.grad is not None
    touched_BT = x_BCTHW.grad.abs().sum(dim=(1, 3, 4)) > 0
    assert touched_BT.tolist() == [[True, True, True], [True, False, False]]


@torch.no_grad()
@every_layout
def test_clips_of_a_batch_do_not_see_each_other(config: UNetConfig) -> None:
    unet = stirred(config).double()
    x_BCTHW = clips().double()
    inputs = inputs_for(config, x_BCTHW)
    both = unet(x_BCTHW, times(), inputs)
    last = slice(1, 2)
    alone = unet(x_BCTHW[last], times()[last], part(inputs, last))
    torch.testing.assert_close(alone, both[last], rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("config", [ADM, EFFICIENT], ids=LAYOUTS)
@pytest.mark.parametrize("temporal_conv", [False, True])
def test_without_attention_within_frames_any_multiple_of_the_stride_goes_through(
    config: UNetConfig, temporal_conv: bool
) -> None:
    config = plain(config, attention=(), temporal_conv=temporal_conv)
    unet = stirred(config)
    stride = config.stride
    for height, width in [(1, 1), (2, 5), (7, 3)]:
        x_BCTHW = clips(size=(height * stride, width * stride))
        assert unet(x_BCTHW, times()).shape == x_BCTHW.shape
    with pytest.raises(ValueError, match=rf"size=\[{stride}, {stride + 1}\], wanted multiples of"):
        unet(clips(size=(stride, stride + 1)), times())


def test_bf16_stays_near_float32() -> None:
    for config in (ADM, EFFICIENT):
        unet = stirred(config, std=0.05)
        x_BCTHW = clips()
        inputs = inputs_for(config, x_BCTHW)
        with torch.no_grad():
            exact = unet(x_BCTHW, times(), inputs)
            rough = unet.bfloat16()(x_BCTHW, times(), inputs)
        assert rough.dtype == torch.float32
        # Eight bits of mantissa through some fifty roundings.
        assert float((rough - exact).norm() / exact.norm()) < 0.05


def test_text_width_is_given_exactly_to_networks_that_read_text() -> None:
    for config, text_width in ((ADM, None), (plain(ADM), 12)):
        with pytest.raises(ValueError, match=r"text_width=.*, wanted both or neither"):
            SpaceTimeUNet(config, text_width=text_width)
