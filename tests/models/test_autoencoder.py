"""The causal video autoencoder: what a latent may see, chunks and shapes."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.sora.autoencoder import LOGVAR_RANGE, Posterior, VideoAutoencoder
from models.sora.autoencoder_config import AutoencoderConfig

# Float32 rounding of a few layers with values about 1, summed in another order.
TOLERANCES = {torch.float32: 2e-5, torch.float64: 1e-12}
DTYPES = list(TOLERANCES)
# Time factor, space factor, patch and levels: both halve together, one only, or neither.
SHAPES: list[dict[str, object]] = [
    {"time_factor": 4, "space_factor": 8, "patch": 1, "width_mults": (1, 1, 2, 2)},
    {"time_factor": 4, "space_factor": 8, "patch": 4, "width_mults": (1, 2, 2)},
    {"time_factor": 2, "space_factor": 4, "patch": 4, "width_mults": (2, 1)},
    {"time_factor": 1, "space_factor": 2, "patch": 1, "width_mults": (1, 2)},
    {"time_factor": 1, "space_factor": 2, "patch": 2, "width_mults": (1,)},
    {"time_factor": 8, "space_factor": 2, "patch": 1, "width_mults": (1, 1, 1, 2)},
]


def _autoencoder(*, dtype: torch.dtype = torch.float64, **changes: object) -> VideoAutoencoder:
    shape: dict[str, object] = {"latent_channels": 3, "width": 4, "blocks": 1, **SHAPES[1]}
    torch.manual_seed(0)
    config = AutoencoderConfig(**(shape | changes))  # pyright: ignore[reportArgumentType]
    return VideoAutoencoder(config).to(dtype).eval()


def _normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def _clip(autoencoder: VideoAutoencoder, *, latents: int = 3, clips: int = 2) -> Tensor:
    frames = (latents - 1) * autoencoder.config.time_factor + 1
    dtype = autoencoder.encoder.stem.weight.dtype
    return _normal(clips, 3, frames, 16, 24, dtype=dtype)


def _moments(autoencoder: VideoAutoencoder, x_B3THW: Tensor) -> Tensor:
    """The encoder's output before it is rounded to float32."""
    return autoencoder.encoder(x_B3THW)


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_a_latent_sees_no_frame_after_its_own(shape: dict[str, object]) -> None:
    autoencoder = _autoencoder(**shape)
    time = autoencoder.config.time_factor
    x = _clip(autoencoder, clips=1)
    before = _moments(autoencoder, x)
    # The first and last frame of every latent: in between nothing else can begin.
    for frame in sorted({0, 1, time, time + 1, 2 * time}):
        changed = x.clone()
        changed[:, :, frame] += 1.0
        differs = (_moments(autoencoder, changed) - before).abs().amax(dim=(0, 1, 3, 4)) > 0
        first = -(-frame // time)  # frame 0 has a latent by itself, then every ``time`` frames
        assert not differs[:first].any()
        assert differs[first]


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_a_frame_sees_no_latent_after_its_own(shape: dict[str, object]) -> None:
    autoencoder = _autoencoder(**shape)
    time = autoencoder.config.time_factor
    z = _normal(1, 3, 3, 2, 2)
    before = autoencoder.decoder(z)
    for latent in range(3):
        changed = z.clone()
        changed[:, :, latent] += 1.0
        differs = (autoencoder.decoder(changed) - before).abs().amax(dim=(0, 1, 3, 4)) > 0
        first = 0 if latent == 0 else (latent - 1) * time + 1
        assert not differs[:first].any()
        assert differs[first:].any()


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_are_encoded_and_decoded_as_the_whole(
    shape: dict[str, object], dtype: torch.dtype
) -> None:
    autoencoder = _autoencoder(dtype=dtype, **shape)
    # The results are float32 whatever the weights; in float64 one last rounding remains.
    atol = max(TOLERANCES[dtype], 5e-7)
    x = _clip(autoencoder, latents=4)
    found, wanted = autoencoder.encode_chunked(x), autoencoder.encode(x)
    assert found.mean.shape == (2, 3, *autoencoder.latent_shape(*x.shape[2:]))
    torch.testing.assert_close(found.mean, wanted.mean, rtol=0, atol=atol)
    torch.testing.assert_close(found.logvar, wanted.logvar, rtol=0, atol=atol)
    z = _normal(*found.mean.shape, dtype=dtype)
    whole = autoencoder.decode(z)
    assert whole.shape == x.shape
    torch.testing.assert_close(autoencoder.decode_chunked(z), whole, rtol=0, atol=atol)


@torch.no_grad()
def test_an_image_is_a_clip_of_one_frame() -> None:
    autoencoder = _autoencoder()
    x = _clip(autoencoder, latents=1)
    posterior = autoencoder.encode(x)
    assert posterior.mean.shape == (2, 3, 1, 1 * 2, 3)
    assert autoencoder.decode(posterior.mean).shape == x.shape
    torch.testing.assert_close(
        autoencoder.encode_chunked(x).mean, posterior.mean, rtol=0, atol=5e-7
    )


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_latent_of_a_clip_is_that_of_its_first_frame(shape: dict[str, object]) -> None:
    autoencoder = _autoencoder(**shape)
    x = _clip(autoencoder)
    torch.testing.assert_close(
        _moments(autoencoder, x)[:, :, :1],
        _moments(autoencoder, x[:, :, :1]),
        rtol=0,
        atol=TOLERANCES[torch.float64],
    )


@torch.no_grad()
@pytest.mark.parametrize("shape", SHAPES)
def test_every_latent_of_a_still_video_is_that_of_the_image(shape: dict[str, object]) -> None:
    autoencoder = _autoencoder(**shape)
    x = _clip(autoencoder)
    still = x[:, :, :1].expand_as(x)
    image = _moments(autoencoder, x[:, :, :1])
    found = _moments(autoencoder, still)
    torch.testing.assert_close(found, image.expand_as(found), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("frames", "size", "message"),
    [
        (10, (32, 32), r"^frames=10, wanted 4k\+1 \(1, 5, \.\.\.\)$"),
        (0, (32, 32), r"^frames=0, wanted 4k\+1 \(1, 5, \.\.\.\)$"),
        (9, (36, 32), r"^size=\[36, 32\], wanted multiples of 8$"),
        (9, (32, 36), r"^size=\[32, 36\], wanted multiples of 8$"),
    ],
)
def test_clips_of_broken_latents_are_refused_in_one_line(
    frames: int, size: tuple[int, int], message: str
) -> None:
    autoencoder = _autoencoder()
    with pytest.raises(ValueError, match=message):
        autoencoder.latent_shape(frames, *size)
    x = torch.zeros(1, 3, frames, *size)
    with pytest.raises(ValueError, match=message):
        autoencoder.encode(x)
    with pytest.raises(ValueError, match=message):
        autoencoder.encode_chunked(x)


def test_latent_shapes_follow_the_factors() -> None:
    autoencoder = _autoencoder()
    assert autoencoder.latent_shape(1, 8, 16) == (1, 1, 2)
    assert autoencoder.latent_shape(81, 480, 832) == (21, 60, 104)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width_mults": (1, 2)}, "width_mults=.1, 2. has 2 entries, wanted 4 for time_factor=4"),
        ({"patch": 16}, "patch=16 is above space_factor=8"),
        ({"time_factor": 3}, "time_factor"),
        ({"width": 0}, "width"),
        ({"blocks": 0}, "blocks"),
        ({"latent_chanels": 4}, "latent_chanels"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AutoencoderConfig(**fields)  # pyright: ignore[reportArgumentType]


def _published(width: int = 96) -> VideoAutoencoder:
    with torch.device("meta"):
        return VideoAutoencoder(AutoencoderConfig(width=width))


def _parameters(*modules: torch.nn.Module) -> int:
    return sum(one.numel() for module in modules for one in module.parameters())


def test_parameters_of_the_wan_like_shape_are_as_counted_by_hand() -> None:
    """Ours has 62.9 million where Wan 2.1 publishes 127.

    Wan's residual blocks have two 3x3x3 convolutions and ours one 3x3x3 and one 1x3x3, its decoder
    has one block more per level, and both its middles add two blocks with attention between them.
    """

    def conv(source: int, target: int, kernel: int) -> int:
        return source * target * kernel + target

    def block(source: int, target: int) -> int:
        shortcut = conv(source, target, 1) if source != target else 0
        norms = source + target
        return norms + conv(source, target, 27) + conv(target, target, 9) + shortcut

    levels = [96, 192, 384, 384]
    encoder = conv(3, 96, 9)
    encoder += 2 * block(96, 96)
    encoder += block(96, 192) + block(192, 192)
    encoder += block(192, 384) + block(384, 384)
    encoder += 2 * block(384, 384)
    encoder += sum(conv(source, source, 9) for source in levels[:3])  # halve space
    encoder += sum(conv(source, source, 3) for source in levels[1:3])  # halve time
    encoder += 384 + conv(384, 32, 1)
    decoder = conv(16, 384, 1)
    decoder += 4 * block(384, 384)
    decoder += block(384, 192) + block(192, 192)
    decoder += block(192, 96) + block(96, 96)
    decoder += sum(conv(source, 4 * source, 9) for source in (384, 384, 192))  # double space
    decoder += sum(conv(source, 2 * source, 1) for source in (384, 384))  # double time
    decoder += 96 + conv(96, 3, 9)
    network = _published()
    assert _parameters(network.encoder) == encoder
    assert _parameters(network.decoder) == decoder
    assert _parameters(network) == 62_920_547


def test_blocks_are_the_residual_blocks_of_both_halves() -> None:
    blocks = _published().blocks()
    assert len(blocks) == 2 * 4 * 2  # halves, levels, blocks per level
    assert len({id(one) for one in blocks}) == len(blocks)


def test_every_parameter_takes_part() -> None:
    autoencoder = _autoencoder()
    x = _clip(autoencoder)
    noise = _normal(2, 3, *autoencoder.latent_shape(*x.shape[2:]))
    reconstruction, posterior = autoencoder(x, noise)
    (reconstruction.square().mean() + posterior.kl().mean()).backward()
    for name, parameter in autoencoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max().item() > 0, name


def test_a_pass_decodes_the_sampled_latent() -> None:
    autoencoder = _autoencoder()
    x = _clip(autoencoder)
    noise = _normal(2, 3, *autoencoder.latent_shape(*x.shape[2:])).float()
    with torch.no_grad():
        reconstruction, posterior = autoencoder(x, noise)
        wanted = autoencoder.decode(posterior.mean + posterior.logvar.div(2).exp() * noise)
    assert reconstruction.dtype == torch.float32
    torch.testing.assert_close(reconstruction, wanted, rtol=0, atol=1e-6)


def test_the_divergence_is_that_of_two_gaussians() -> None:
    mean, logvar = _normal(2, 3, 2, 4, 5), _normal(2, 3, 2, 4, 5, seed=2)
    posterior = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    wanted = torch.distributions.kl_divergence(posterior, prior).flatten(1).mean(dim=1)
    found = Posterior(mean=mean, logvar=logvar).kl()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0)  # float32 exp and sum


def test_the_log_variance_is_bounded() -> None:
    autoencoder = _autoencoder()
    with torch.no_grad():
        for bias, bound in zip((-1e4, 1e4), LOGVAR_RANGE, strict=True):
            autoencoder.encoder.head.bias.fill_(bias)
            assert bool((autoencoder.encode(_clip(autoencoder)).logvar == bound).all())
