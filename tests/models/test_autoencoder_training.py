"""A few steps of training, recomputed and compiled blocks."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.sora.autoencoder import VideoAutoencoder
from models.sora.autoencoder_config import AutoencoderConfig, AutoencoderLossConfig
from models.sora.autoencoder_loss import AutoencoderLoss

CONFIG = AutoencoderConfig(
    latent_channels=8, width=16, width_mults=(1, 2, 2), blocks=1, patch=2, space_factor=8
)


def _autoencoder() -> VideoAutoencoder:
    torch.manual_seed(0)
    return VideoAutoencoder(CONFIG)


def _squares(*, clips: int, seed: int) -> Tensor:
    """A coloured square that moves to the right, [B, 3, 5, 16, 16] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((clips, 3, 5, 16, 16), -1.0)
    for clip in range(clips):
        top, left = torch.randint(0, 6, (2,), generator=generator).tolist()
        colour = torch.rand(3, 1, 1, generator=generator) * 2 - 1
        for frame in range(5):
            x[clip, :, frame, top : top + 8, left + frame : left + frame + 6] = colour
    return x


def _noise(autoencoder: VideoAutoencoder, x: Tensor, *, seed: int) -> Tensor:
    shape = autoencoder.latent_shape(*x.shape[2:])
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(x.shape[0], autoencoder.config.latent_channels, *shape, generator=generator)


def _gradients(autoencoder: VideoAutoencoder) -> list[Tensor]:
    x = _squares(clips=2, seed=1)
    reconstruction, _ = autoencoder(x, _noise(autoencoder, x, seed=2))
    reconstruction.square().mean().backward()
    return [one.grad for one in autoencoder.parameters() if one.grad is not None]


def test_a_few_steps_lower_the_loss_on_clips_never_seen() -> None:
    autoencoder = _autoencoder()
    loss = AutoencoderLoss(AutoencoderLossConfig(l1=0.5, l2=1.0))
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=4e-3)

    @torch.no_grad()
    def error() -> float:
        held_out = _squares(clips=8, seed=0)
        return (
            (autoencoder.decode(autoencoder.encode(held_out).mean) - held_out)
            .square()
            .mean()
            .item()
        )

    start = error()
    for step in range(40):
        x = _squares(clips=8, seed=step + 1)
        reconstruction, posterior = autoencoder(x, _noise(autoencoder, x, seed=step))
        value, stats = loss.generator(x, reconstruction, posterior, critic=None)
        assert torch.isfinite(value)
        assert set(stats) == {"l1", "mse", "kl", "loss"}
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert error() < 0.4 * start


def test_recomputed_blocks_give_the_same_gradients() -> None:
    plain, recomputed = _autoencoder(), _autoencoder()
    for block in recomputed.blocks():
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    wanted, found = _gradients(plain), _gradients(recomputed)
    assert len(found) == len(wanted) == len(list(plain.parameters()))
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


# The tracer looks at the .grad of what it is given, and torch warns of that.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_blocks_compile_whole() -> None:
    """Each block is one graph; the eager backend runs it as it was traced."""
    plain, compiled = _autoencoder(), _autoencoder()
    for block in compiled.blocks():
        block.compile(backend="eager", fullgraph=True)
    for one, other in zip(_gradients(compiled), _gradients(plain), strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_one_chunked_pass_leaves_nothing_behind_for_the_next() -> None:
    used, fresh = _autoencoder(), _autoencoder()
    used.encode_chunked(_squares(clips=2, seed=1))
    used.decode_chunked(torch.ones(2, 8, 2, 2, 2))
    x = _squares(clips=3, seed=2)
    assert torch.equal(used.encode_chunked(x).mean, fresh.encode_chunked(x).mean)
    z = torch.ones(1, 8, 3, 2, 2)
    assert torch.equal(used.decode_chunked(z), fresh.decode_chunked(z))


@torch.no_grad()
def test_no_chunk_is_longer_than_a_latent() -> None:
    autoencoder = _autoencoder()
    lengths: dict[str, list[int]] = {"encoder": [], "decoder": []}
    for name, half in (("encoder", autoencoder.encoder), ("decoder", autoencoder.decoder)):
        half.register_forward_pre_hook(
            lambda _, inputs, seen=lengths[name]: seen.append(inputs[0].shape[2])
        )
    autoencoder.encode_chunked(torch.zeros(1, 3, 13, 16, 16))
    autoencoder.decode_chunked(torch.zeros(1, 8, 4, 2, 2))
    assert lengths == {"encoder": [1, 4, 4, 4], "decoder": [1, 1, 1, 1]}


@torch.no_grad()
def test_half_precision_weights_answer_in_float32() -> None:
    autoencoder = _autoencoder().bfloat16()
    posterior = autoencoder.encode(_squares(clips=1, seed=0))
    assert posterior.mean.dtype == posterior.logvar.dtype == torch.float32
    assert autoencoder.decode(posterior.mean).dtype == torch.float32
