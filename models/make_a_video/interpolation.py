"""What the frame interpolation network is told: the given frames and which ones they are.

Shape letters: B clips, T frames, H W height and width; n frames are given.

The four channels go beside the three noisy ones, so the network reads seven. An image is
animated by ``first_frames`` with one frame given.
"""

import torch
from torch import Tensor

from models.config import MissingFrames


def given_channels(x_B3THW: Tensor, mask_BT: Tensor, *, missing: MissingFrames = "blank") -> Tensor:
    """Given frames and their mask, [B, 4, T, H, W], in the dtype of the clip.

    Args:
        x_B3THW: clips, pixels in [-1, 1]. What stands in frames that are not given is not read.
        mask_BT: true where a frame is given, [B, T], bool.
        missing: what stands in the other frames: ``blank`` (zeros), ``repeat`` (the given frame
            before, or the first one), or ``blend`` (see ``faded``).

    Returns:
        Red, green and blue of the given frames and of what stands in all others, then 1 where a
        frame is given and 0 elsewhere.

    Raises:
        ValueError: if the clip does not have 3 channels or the mask is not bool [B, T].

    Source: Singer et al. 2022 (Make-A-Video), arXiv:2209.14792, section 3.3. Zero is grey in
    [-1, 1]; the fourth channel is what tells it from a grey frame. The paper has zeros; the
    others are ours, for small networks that would need long to learn where to look.
    """
    clips, channels, frames, height, width = x_B3THW.shape
    if channels != 3:
        raise ValueError(f"x_B3THW has {channels} channels, wanted 3")
    if mask_BT.dtype != torch.bool or mask_BT.shape != (clips, frames):
        raise ValueError(
            f"mask_BT is {mask_BT.dtype} of shape {tuple(mask_BT.shape)}, "
            f"wanted torch.bool of shape {(clips, frames)}"
        )
    mask_B1THW = mask_BT[:, None, :, None, None].expand(-1, 1, -1, height, width)
    # Not a product: it would let an infinity through a frame that is not given.
    known_B3THW = torch.where(mask_B1THW, x_B3THW, torch.zeros_like(x_B3THW))
    given_B4THW = torch.cat([known_B3THW, mask_B1THW.to(x_B3THW)], dim=1)
    if missing == "blank":
        return given_B4THW
    if missing == "blend":
        return torch.cat([faded(given_B4THW), given_B4THW[:, 3:]], dim=1)
    before_BT, _ = _neighbours(mask_BT)
    return torch.cat([_at(given_B4THW, before_BT), given_B4THW[:, 3:]], dim=1)


def every_kth(frames: int, *, skip: int) -> Tensor:
    """Mask that gives frames 0, skip, 2 skip and so on to the last one, [T], bool.

    Raises:
        ValueError: if the last frame is not one of them: wanted are (n - 1) skip + 1 frames.

    Source: arXiv:2209.14792, section 3.3: 16 given frames and skip 5 make 76 frames.
    """
    if skip < 1 or frames < 1 or (frames - 1) % skip:
        raise ValueError(f"frames={frames} with skip={skip}, wanted (n - 1) * skip + 1 frames")
    return torch.arange(frames) % skip == 0


def first_frames(frames: int, *, given: int) -> Tensor:
    """Mask that gives the first frames, to go on from, [T], bool.

    Raises:
        ValueError: if not at least one and not all frames are given.
    """
    _check(given, frames=frames)
    return torch.arange(frames) < given


def last_frames(frames: int, *, given: int) -> Tensor:
    """Mask that gives the last frames, to lead up to, [T], bool.

    Raises:
        ValueError: if not at least one and not all frames are given.
    """
    _check(given, frames=frames)
    return torch.arange(frames) >= frames - given


def spread(x_B3nHW: Tensor, *, skip: int) -> Tensor:
    """Puts given frames ``skip`` apart, [B, 3, T, H, W] with T = (n - 1) skip + 1.

    The frames between are zeros, for ``given_channels`` with the mask of ``every_kth``.
    """
    clips, channels, given, height, width = x_B3nHW.shape
    x_B3THW = x_B3nHW.new_zeros(clips, channels, (given - 1) * skip + 1, height, width)
    x_B3THW[:, :, ::skip] = x_B3nHW
    return x_B3THW


def faded(given_B4THW: Tensor) -> Tensor:
    """What to expect between given frames: each fades linearly into the next one, [B, 3, T, H, W].

    Before the first and after the last given frame that one stays; where none is given, zeros.

    Args:
        given_B4THW: as ``given_channels`` makes them.
    """
    before_BT, after_BT = _neighbours(given_B4THW[:, 3, :, 0, 0] > 0.5)
    place_T = torch.arange(before_BT.shape[1], device=before_BT.device)
    share_BT = (place_T - before_BT) / (after_BT - before_BT).clamp_min(1)
    share = share_BT.to(given_B4THW)[:, None, :, None, None]
    return torch.lerp(_at(given_B4THW, before_BT), _at(given_B4THW, after_BT), share)


def _neighbours(mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The last given frame up to each frame and the first from it on; the other where none is."""
    frames = mask_BT.shape[1]
    place_T = torch.arange(frames, device=mask_BT.device)
    before_BT = torch.where(mask_BT, place_T, -1).cummax(dim=1).values
    after_BT = torch.where(mask_BT, place_T, frames).flip(1).cummin(dim=1).values.flip(1)
    before = torch.where(before_BT < 0, after_BT, before_BT).clamp_max(frames - 1)
    return before, torch.where(after_BT == frames, before_BT, after_BT).clamp_min(0)


def _at(given_B4THW: Tensor, frame_BT: Tensor) -> Tensor:
    known_B3THW = given_B4THW[:, :3]
    return known_B3THW.gather(2, frame_BT[:, None, :, None, None].expand_as(known_B3THW))


def _check(given: int, *, frames: int) -> None:
    if not 1 <= given < frames:
        raise ValueError(f"given={given} of frames={frames}, wanted 1 to {frames - 1}")
