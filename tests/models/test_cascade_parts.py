"""Calls of a network on some clips, frames or tiles: which, and that frames apart are exact."""

from typing import Any

import pytest
import torch

from models.cascade.parts import Window, in_parts, in_steps, pixels_at_once, windows
from models.nn.unet_config import UNetConfig
from models.nn.unet_inputs import UNetInputs
from models.nn.unet_reach import peak_values, temporal_reach
from tests.models.unets import ADM, EFFICIENT, inputs_for, plain, random, stirred, times

FRAMES = 60
ROUNDING = 1e-4  # float32: other numbers of frames are summed in another order


def short(config: UNetConfig, **fields: Any) -> UNetConfig:
    """One level, one block: its layers over time reach but a few frames."""
    small: dict[str, Any] = {
        "mults": (1,),
        "blocks": (1,),
        "attention": (),
        "temporal_attention": (),
    }
    return UNetConfig(**plain(config).model_dump() | small | fields)


CONVOLUTIONS = [
    short(ADM),
    short(EFFICIENT, time_position="relative"),
    short(ADM, mults=(1, 2), blocks=(1, 1)),
    short(EFFICIENT, time_position="relative", mults=(1, 1), blocks=(1, 2)),
    short(ADM, temporal_kernel=5),
]


@pytest.mark.parametrize("config", CONVOLUTIONS)
def test_frames_reach_as_far_as_is_said_and_no_farther(config: UNetConfig) -> None:
    network = stirred(config, std=0.3).double()
    x = random(1, 3, FRAMES, 4, 4).double().requires_grad_()
    network(x, times(1))[:, :, 30].sum().backward()
    assert x.grad is not None
    seen = x.grad.ne(0).any(dim=(0, 1, 3, 4)).nonzero().flatten().tolist()
    reach = temporal_reach(config)
    assert reach is not None
    assert seen == list(range(30 - reach, 30 + reach + 1))


def test_attention_over_time_reaches_everything_and_images_nothing() -> None:
    assert temporal_reach(plain(ADM)) is None
    assert temporal_reach(short(ADM, temporal_conv=False)) == 0


def test_windows_cover_every_frame_once() -> None:
    assert list(windows(10, most=8, reach=2)) == [
        Window(start=0, end=4, low=0, high=6),
        Window(start=4, end=8, low=2, high=10),
        Window(start=8, end=10, low=6, high=10),
    ]
    assert [one.end for one in windows(3, most=1, reach=0)] == [1, 2, 3]


def calls_of(config: UNetConfig, *, frames: int, most_frames: int) -> list[tuple[int, ...]]:
    """Shapes that the network is called with; checks that nothing changes by it."""
    network, calls = stirred(config, std=0.1), list[tuple[int, ...]]()
    x = random(2, 3, frames, 8, 8)
    inputs, t_B = inputs_for(config, x), times(2)

    def watched(x: torch.Tensor, t_B: torch.Tensor, inputs: UNetInputs) -> torch.Tensor:
        calls.append(tuple(x.shape))
        return network(x, t_B, inputs)

    with torch.no_grad():
        found = in_parts(watched, x, t_B, inputs, config=config, most_pixels=64 * most_frames)
        whole = network(x, t_B, inputs)
    torch.testing.assert_close(found, whole, rtol=ROUNDING, atol=ROUNDING)
    return [shape[:1] + shape[2:] for shape in calls]


def test_windows_of_a_network_with_convolutions_over_time_are_exact() -> None:
    config = short(
        ADM, attention=(0,), low_resolution=True, augmentation=True, given_frames=True, fps=True
    )
    assert temporal_reach(config) == 12
    found = calls_of(config, frames=40, most_frames=30)
    assert len(found) == 2 * 7  # six frames at a time
    assert max(shape[1] for shape in found) == 30
    assert calls_of(config, frames=15, most_frames=25) == [(1, 15, 8, 8)] * 2


def test_frames_of_a_network_of_images_are_apart() -> None:
    config = short(ADM, attention=(0,), temporal_conv=False)
    assert (
        calls_of(config, frames=5, most_frames=2)
        == [
            (1, 2, 8, 8),
            (1, 2, 8, 8),
            (1, 1, 8, 8),
        ]
        * 2
    )


def test_a_clip_is_the_least_for_attention_over_positions_and_over_frames() -> None:
    config = plain(ADM)
    assert calls_of(config, frames=4, most_frames=1) == [(1, 4, 8, 8)] * 2


def test_clips_pass_together_as_far_as_they_fit() -> None:
    assert calls_of(plain(ADM), frames=4, most_frames=8) == [(2, 4, 8, 8)]


def test_memory_is_counted_in_eighths() -> None:
    assert [in_steps(free, total=80) for free in (79, 70, 69, 10, 9, 3)] == [70, 70, 60, 10, 9, 3]


def test_less_memory_or_larger_values_leave_fewer_pixels() -> None:
    config = plain(ADM)

    def pixels(*, values: int, most: int) -> int:
        return pixels_at_once(config, bytes_per_value=values, most_bytes=most, sampled_pixels=64)

    sampler = 36 * 4 * 64
    assert pixels(values=4, most=sampler + int(400 * peak_values(config))) == 100
    assert pixels(values=2, most=sampler + int(400 * peak_values(config))) == 200
    assert pixels(values=4, most=0) == 1
