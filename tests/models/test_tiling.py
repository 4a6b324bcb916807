"""Frames tile by tile against whole frames. Sides are in pixels."""

import pytest
import torch
from torch import Tensor

from models.sora.autoencoder import VideoAutoencoder
from models.sora.autoencoder_config import AutoencoderConfig
from models.sora.tiling import decode_tiled, encode_tiled

ROUNDING = 2e-6  # outputs are float32, about 1; the layers run in float64
FACTOR = 2
SIZE = (40, 56)


def _autoencoder(**changes: object) -> VideoAutoencoder:
    shape = {"latent_channels": 3, "width": 4, "width_mults": (1, 2), "blocks": 1}
    shape.update(space_factor=FACTOR, time_factor=2)
    torch.manual_seed(0)
    return VideoAutoencoder(AutoencoderConfig(**(shape | changes))).double().eval()  # pyright: ignore[reportArgumentType]


def _normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def autoencoder() -> VideoAutoencoder:
    return _autoencoder()


def _outside_overlaps(side: int, *, tile: int, overlap: int) -> Tensor:
    """True where exactly one tile lies, by counting."""
    count = torch.zeros(side)
    start = 0
    while True:
        count[start : start + tile] += 1
        if start + tile >= side:
            return count == 1
        start += tile - overlap


@torch.no_grad()
@pytest.mark.parametrize("tile", [56, 64])
def test_one_tile_over_the_frame_is_the_whole(autoencoder: VideoAutoencoder, tile: int) -> None:
    x, z = _normal(1, 3, 3, *SIZE), _normal(1, 3, 2, 20, 28)
    found, wanted = encode_tiled(autoencoder, x, tile=tile, overlap=8), autoencoder.encode(x)
    torch.testing.assert_close(found.mean, wanted.mean, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(found.logvar, wanted.logvar, rtol=0, atol=ROUNDING)
    decoded = decode_tiled(autoencoder, z, tile=tile, overlap=8)
    torch.testing.assert_close(decoded, autoencoder.decode(z), rtol=0, atol=ROUNDING)


@torch.no_grad()
def test_outside_the_overlaps_tiles_agree_with_the_whole(autoencoder: VideoAutoencoder) -> None:
    """Overlap 12 is above the reach of 8 (encoder) and 9 (decoder)."""
    x, z = _normal(1, 3, 3, *SIZE), _normal(1, 3, 2, 20, 28)
    rows, columns = (_outside_overlaps(side, tile=24, overlap=12) for side in SIZE)
    inside = rows[:, None] & columns
    assert inside.any()
    assert not inside.all()
    error = (decode_tiled(autoencoder, z, tile=24, overlap=12) - autoencoder.decode(z)).abs()
    assert error[..., inside].max().item() < ROUNDING
    assert error.max().item() > 1e-3  # without the cut, the test would compare nothing
    found, wanted = encode_tiled(autoencoder, x, tile=24, overlap=12), autoencoder.encode(x)
    cells = inside[::FACTOR, ::FACTOR]
    assert (found.mean - wanted.mean)[..., cells].abs().max().item() < ROUNDING
    assert (found.logvar - wanted.logvar)[..., cells].abs().max().item() < ROUNDING


@torch.no_grad()
def test_overlaps_blend_linearly_between_two_tiles(autoencoder: VideoAutoencoder) -> None:
    z = _normal(1, 3, 1, 4, 12)
    left, right = autoencoder.decode(z[..., :8]), autoencoder.decode(z[..., 4:])
    share = (torch.arange(8) + 0.5) / 8  # of the right tile, over pixels 8 to 16
    wanted = left[..., 8:] * (1 - share) + right[..., :8] * share
    found = decode_tiled(autoencoder, z, tile=16, overlap=8)
    torch.testing.assert_close(found[..., 8:16], wanted, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(found[..., :8], left[..., :8], rtol=0, atol=ROUNDING)
    torch.testing.assert_close(found[..., 16:], right[..., 8:], rtol=0, atol=ROUNDING)


@torch.no_grad()
def test_tiles_without_overlap_stand_side_by_side(autoencoder: VideoAutoencoder) -> None:
    z = _normal(1, 3, 1, 4, 7)
    parts = [autoencoder.decode(part) for part in z.split(4, dim=-1)]
    found = decode_tiled(autoencoder, z, tile=8, overlap=0)
    torch.testing.assert_close(found, torch.cat(parts, dim=-1), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (15, 4, "tile=15, wanted a multiple of 2 above 0"),
        (0, 0, "tile=0, wanted a multiple of 2 above 0"),
        (16, 3, "overlap=3, wanted a multiple of 2 from 0 to half of tile=16"),
        (16, 10, "overlap=10, wanted a multiple of 2 from 0 to half of tile=16"),
        (16, -2, "overlap=-2, wanted"),
    ],
)
def test_tiles_that_do_not_fit_are_refused(
    autoencoder: VideoAutoencoder, tile: int, overlap: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encode_tiled(autoencoder, _normal(1, 3, 1, 32, 32), tile=tile, overlap=overlap)
    with pytest.raises(ValueError, match=message):
        decode_tiled(autoencoder, _normal(1, 3, 1, 16, 16), tile=tile, overlap=overlap)


def test_a_frame_of_half_latents_is_refused(autoencoder: VideoAutoencoder) -> None:
    with pytest.raises(ValueError, match="wanted multiples of 2"):
        encode_tiled(autoencoder, _normal(1, 3, 1, 32, 33), tile=16, overlap=4)


def test_the_reach_is_as_stated_in_the_usual_shape() -> None:
    """Nonzero gradients of one latent reach 68 pixels, those of one pixel latents within 75."""
    usual = _autoencoder(width=1, width_mults=(1, 2, 4, 4), blocks=2, space_factor=8, time_factor=1)
    x = _normal(1, 3, 1, 8, 320).requires_grad_()
    usual.encode(x).mean[..., 0, 20].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().sum(dim=(0, 1, 2, 3)).nonzero().flatten()
    assert seen.min().item() == 20 * 8 - 68
    assert seen.max().item() <= 20 * 8 + 68
    z = _normal(1, 3, 1, 2, 40).requires_grad_()
    usual.decode(z)[..., 0, 160].sum().backward()
    assert z.grad is not None
    seen = z.grad.abs().sum(dim=(0, 1, 2, 3)).nonzero().flatten()
    assert seen.min().item() * 8 >= 160 - 75 - 7  # a cell counts when any of its pixels does
    assert seen.max().item() * 8 <= 160 + 75
    assert seen.max().item() - seen.min().item() >= 15
