"""A network on clips that are too large for one call: some clips, some frames, or tiles at a time.

Shape letters: B clips, T frames, H W height and width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import psutil
import torch
from torch import Tensor

from models.cascade.conditions import part_of
from models.cascade.tiles import Network, tile_of, tiled
from models.nn.unet_config import UNetConfig
from models.nn.unet_inputs import UNetInputs
from models.nn.unet_reach import peak_values, temporal_reach

SAMPLER_VALUES = 36  # per pixel, float32: a sampler's clips in all, its thresholds' and guidance's
FREE_SHARE = 0.9  # of what is free: the rest is for workspaces and for gaps between tensors
STEPS = 8  # in which memory is counted, so that no parts depend on the last megabyte


@dataclass(frozen=True)
class Window:
    """Frames of one call: from start to end are wanted, from low to high are seen."""

    start: int
    end: int
    low: int
    high: int


def free_bytes(device: torch.device) -> int:
    """Memory that a network's values may take, in eighths of what the device has."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        memory = psutil.virtual_memory()
        free, total = memory.available, memory.total
    return in_steps(int(FREE_SHARE * free), total=total)


def in_steps(free: int, *, total: int) -> int:
    """Rounded down to an eighth of the total; less than one stays as it is."""
    step = total // STEPS
    return free // step * step if free >= step else free


def pixels_at_once(
    config: UNetConfig, *, bytes_per_value: int, most_bytes: int, sampled_pixels: int
) -> int:
    """How many pixels a call of the network may have.

    Args:
        config: of the network.
        bytes_per_value: of its weights and so of its values.
        most_bytes: for its values and the sampler's.
        sampled_pixels: of all clips that are sampled at once, whatever their parts are.
    """
    left = most_bytes - SAMPLER_VALUES * 4 * sampled_pixels
    return max(1, int(left / (peak_values(config) * bytes_per_value)))


def in_parts(
    network: Network,
    x_B3THW: Tensor,
    t_B: Tensor,
    inputs: UNetInputs,
    *,
    config: UNetConfig,
    most_pixels: int,
) -> Tensor:
    """The network's output, from calls of a number of pixels if that is possible.

    Clips are apart, and so are frames with as many on either side as layers over time reach: that
    is exact. Tiles are not, the norms are over a frame (see ``tiled``). They are for networks
    whose layers over time reach too far, and that have no attention over positions. With that,
    one clip is the least.
    """
    at_once = max(1, most_pixels // x_B3THW[0, 0].numel())
    parts = [slice(first, first + at_once) for first in range(0, len(x_B3THW), at_once)]

    def clip(part: slice) -> Tensor:
        x, t, own = x_B3THW[part], t_B[part], inputs
        if len(parts) > 1:
            own = part_of(inputs, part)
        if x[0, 0].numel() <= most_pixels:
            return network(x, t, own)
        return _one_clip(network, x, t, own, config=config, most_pixels=most_pixels)

    return _joined([clip(part) for part in parts], dim=0)


def _one_clip(
    network: Network,
    x_13THW: Tensor,
    t_1: Tensor,
    inputs: UNetInputs,
    *,
    config: UNetConfig,
    most_pixels: int,
) -> Tensor:
    frames, frame_pixels = x_13THW.shape[2], x_13THW[0, 0, 0].numel()
    reach, most_frames = temporal_reach(config), most_pixels // frame_pixels
    if reach is not None and most_frames - 2 * reach >= _least_new(config, reach=reach):
        return _windowed(
            network, x_13THW, t_1, inputs, of=windows(frames, most=most_frames, reach=reach)
        )
    if config.attention:
        return network(x_13THW, t_1, inputs)
    if reach == 0:  # then the frames need not pass the network together
        ones = windows(frames, most=1, reach=0)

        def tiles(x: Tensor, t: Tensor, own: UNetInputs) -> Tensor:
            return _tiled(network, x, t, own, config=config, most_pixels=most_pixels)

        return _windowed(tiles, x_13THW, t_1, inputs, of=ones)
    return _tiled(network, x_13THW, t_1, inputs, config=config, most_pixels=most_pixels)


def _least_new(config: UNetConfig, *, reach: int) -> int:
    """Frames that a window has to add: as many as its margins, where tiles are possible."""
    return 1 if config.attention else max(1, 2 * reach)


def windows(frames: int, *, most: int, reach: int) -> Iterator[Window]:
    """All frames in turn, at most so many in a call, each with its reach on both sides."""
    new = most - 2 * reach
    for start in range(0, frames, new):
        end = min(start + new, frames)
        yield Window(start=start, end=end, low=max(0, start - reach), high=min(frames, end + reach))


def _windowed(
    network: Network, x_B3THW: Tensor, t_B: Tensor, inputs: UNetInputs, *, of: Iterator[Window]
) -> Tensor:
    def run(window: Window) -> Tensor:
        seen = slice(window.low, window.high)
        low, given = inputs.low_resolution_BCTHW, inputs.given_BCTHW
        part = replace(
            inputs,
            low_resolution_BCTHW=None if low is None else low[:, :, seen],
            given_BCTHW=None if given is None else given[:, :, seen],
        )
        found = network(x_B3THW[:, :, seen], t_B, part)
        return found[:, :, window.start - window.low : window.end - window.low]

    return _joined([run(window) for window in of], dim=2)


def _tiled(
    network: Network,
    x_B3THW: Tensor,
    t_B: Tensor,
    inputs: UNetInputs,
    *,
    config: UNetConfig,
    most_pixels: int,
) -> Tensor:
    tile = tile_of(x_B3THW.shape[2], most_pixels=most_pixels, stride=config.stride)
    return tiled(network, x_B3THW, t_B, inputs, stride=config.stride, tile=tile)


def _joined(parts: list[Tensor], *, dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
