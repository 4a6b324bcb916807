"""Dropout that depends on the clip alone: not on the rank, the batch or what was drawn before.

Shape letters:
  B clips   T frames of a clip   N frames of all clips, those of a clip one after another
  C channels   H W height and width   P positions of a frame (H * W)
"""

import torch
from torch import Tensor, nn

_WORD = 0xFFFF_FFFF  # numbers are 32 bits wide, in int64
_MULTIPLIER = 0x45D9F3B
_STEP = 0x9E37_79B1  # odd: multiples of it are all different


class ClipDropout(nn.Module):
    """Sets values to zero by a hash of the clip's seed, the layer's number and their place.

    The same seed gives the same mask at any world size, in recomputation and after a resume;
    nothing is drawn from a generator and nothing waits for the device.

    Source: dropout by counters as in Salmon et al. 2011, "Parallel random numbers: as easy as
    1, 2, 3"; the mixing function is Mueller's 32-bit integer hash, which is cheaper.
    """

    number: Tensor

    def __init__(self, share: float) -> None:
        """Args: ``share`` of the values that become zero, in [0, 1)."""
        super().__init__()
        self.share = share
        # A tensor: as a number it would make every layer a variant of its own for torch.compile.
        self.register_buffer("number", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, x_NCHW: Tensor, seed_N: Tensor | None) -> Tensor:
        """Returns the shape of x; x itself outside of training.

        Args:
            x_NCHW: values.
            seed_N: of every frame, int64, see ``frame_seeds``.

        Raises:
            ValueError: in training without seeds.
        """
        if not self.training or self.share == 0.0:
            return x_NCHW
        if seed_N is None:
            raise ValueError(f"dropout={self.share} without seeds, wanted dropout_B of every clip")
        _, channels, height, width = x_NCHW.shape
        channel_C = torch.arange(channels, device=x_NCHW.device)
        place_P = torch.arange(height * width, device=x_NCHW.device).view(height, width)
        layer_N = mixed(seed_N + self.number * _STEP)
        plane_NC = mixed(layer_N[:, None] + channel_C * _STEP)
        hash_NCHW = mixed(plane_NC[..., None, None] + place_P * _STEP)
        is_dropped_NCHW = hash_NCHW < int(self.share * (_WORD + 1))
        return (x_NCHW / (1.0 - self.share)).masked_fill(is_dropped_NCHW, 0.0)


def number_dropouts(network: nn.Module) -> None:
    """Gives every dropout of a network a number of its own, from 0 in the order of modules."""
    dropouts = [module for module in network.modules() if isinstance(module, ClipDropout)]
    for index, module in enumerate(dropouts):
        module.number.fill_(index)


def frame_seeds(seed_B: Tensor, *, frames: int) -> Tensor:
    """Seeds of all frames of some clips, int64 [N]."""
    frame_T = torch.arange(frames, device=seed_B.device)
    return mixed(mixed(seed_B)[:, None] + frame_T * _STEP).flatten()


def mixed(x: Tensor) -> Tensor:
    """32 bits that each depend on all of the lower 32 bits of x; no product is above 2^59."""
    x = x & _WORD
    for _ in range(2):
        x = ((x ^ (x >> 16)) * _MULTIPLIER) & _WORD
    return x ^ (x >> 16)
