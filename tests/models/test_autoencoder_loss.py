"""The autoencoder's losses against slow formulas, and who gets a gradient from which."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from models.sora.autoencoder import Posterior, VideoAutoencoder
from models.sora.autoencoder_config import (
    AdversarialConfig,
    AutoencoderConfig,
    AutoencoderLossConfig,
    PerceptualConfig,
)
from models.sora.autoencoder_loss import AutoencoderLoss
from models.sora.discriminator import PatchDiscriminator3D
from models.sora.perceptual import VGG_STAGES, PerceptualDistance

RELATIVE = 1e-5  # float32 sums of some thousand terms against float64 ones
ADVERSARIAL = AdversarialConfig(start_step=0, weight=0.25, width=4, layers=2)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _clips(*, seed: int) -> Tensor:
    return _normal(2, 3, 5, 16, 16, seed=seed).tanh()


def _posterior() -> Posterior:
    return Posterior(mean=_normal(2, 4, 2, 2, 2, seed=8), logvar=_normal(2, 4, 2, 2, 2, seed=9))


def _critic() -> PatchDiscriminator3D:
    torch.manual_seed(0)
    return PatchDiscriminator3D(ADVERSARIAL)


def _vgg(path: Path) -> PerceptualConfig:
    """VGG-16's first stages with 4 channels, random, as a file."""
    tensors: dict[str, Tensor] = {}
    channels = 3
    for stage in range(2):
        for number in VGG_STAGES[stage]:
            tensors[f"features.{number}.weight"] = _normal(4, channels, 3, 3, seed=number) / 3
            tensors[f"features.{number}.bias"] = _normal(4, seed=number + 50) / 3
            channels = 4
        tensors[f"lin.{stage}.weight"] = _normal(4, seed=stage + 100).abs()
    save_file(tensors, path)
    return PerceptualConfig(path=str(path), weight=0.5)


@pytest.fixture
def perceptual(tmp_path: Path) -> PerceptualConfig:
    return _vgg(tmp_path / "vgg.safetensors")


def test_the_generators_loss_is_the_weighted_sum_of_its_terms(
    perceptual: PerceptualConfig,
) -> None:
    config = AutoencoderLossConfig(
        l1=0.7, l2=0.3, kl=0.01, perceptual=perceptual, adversarial=ADVERSARIAL
    )
    x, made, posterior, critic = _clips(seed=1), _clips(seed=2), _posterior(), _critic()
    loss, stats = AutoencoderLoss(config).generator(x, made, posterior, critic=critic)
    error = (made - x).double()
    mean, logvar = posterior.mean.double(), posterior.logvar.double()
    wanted = {
        "l1": error.abs().mean(),
        "mse": error.pow(2).mean(),
        "kl": (mean.pow(2) + logvar.exp() - 1 - logvar).mean() / 2,
        "perceptual": PerceptualDistance(perceptual)(made, x).double(),
        "adversarial": -critic(made).detach().double().mean(),
    }
    weights = {"l1": 0.7, "mse": 0.3, "kl": 0.01, "perceptual": 0.5, "adversarial": 0.25}
    wanted["loss"] = torch.stack([weights[name] * wanted[name] for name in weights]).sum()
    assert stats.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(stats[name].double(), value, rtol=RELATIVE, atol=1e-6)
        assert not stats[name].requires_grad
    torch.testing.assert_close(loss.detach(), stats["loss"], rtol=0, atol=0)


def test_terms_that_are_not_asked_for_are_not_computed() -> None:
    loss = AutoencoderLoss(AutoencoderLossConfig())
    stats = loss.generator(_clips(seed=1), _clips(seed=2), _posterior(), critic=None)[1]
    assert set(stats) == {"l1", "mse", "kl", "loss"}
    assert not list(loss.parameters())


def test_the_generators_pass_gives_the_critic_no_gradient() -> None:
    loss = AutoencoderLoss(AutoencoderLossConfig(adversarial=ADVERSARIAL))
    critic, x = _critic(), _clips(seed=1)
    frozen = next(critic.parameters())
    frozen.requires_grad_(False)
    made = x.clone().requires_grad_()  # equal clips: only the critic's term has a gradient
    loss.generator(x, made, _posterior(), critic=critic)[0].backward()
    assert made.grad is not None
    assert made.grad.abs().max().item() > 0
    assert all(one.grad is None for one in critic.parameters())
    # What was trainable before still is, and nothing else.
    assert [one.requires_grad for one in critic.parameters()].count(False) == 1
    assert not frozen.requires_grad


def test_the_critic_learns_from_its_own_pass_and_the_generator_does_not() -> None:
    loss = AutoencoderLoss(AutoencoderLossConfig(adversarial=ADVERSARIAL))
    critic = _critic()
    x, made = _clips(seed=1), _clips(seed=2).requires_grad_()
    loss.generator(x, made, _posterior(), critic=critic)
    loss.discriminator(x, made, critic)[0].backward()
    assert made.grad is None
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None, name
        # Inside the hinge's margins real and made clips pull on the last bias alike.
        assert name == "head.bias" or parameter.grad.abs().max().item() > 0, name


def test_the_critics_loss_is_the_hinge() -> None:
    """Scores on both sides of both margins, summed one by one."""
    real, fake = _normal(2, 1, 2, 3, 3, seed=3) * 2, _normal(2, 1, 2, 3, 3, seed=4) * 2
    seen: list[Tensor] = []

    def critic(both: Tensor) -> Tensor:
        seen.append(both)
        return torch.cat([real, fake])

    x, made = _clips(seed=1), _clips(seed=2)
    loss, stats = AutoencoderLoss(AutoencoderLossConfig()).discriminator(x, made, critic)
    on_real = [max(0.0, 1.0 - score) for score in real.double().flatten().tolist()]
    on_fake = [max(0.0, 1.0 + score) for score in fake.double().flatten().tolist()]
    assert 0.0 in on_real
    assert 0.0 in on_fake
    wanted = 0.5 * (sum(on_real) / len(on_real) + sum(on_fake) / len(on_fake))
    assert loss.item() == pytest.approx(wanted, rel=RELATIVE)
    assert stats["discriminator"].item() == loss.item()
    torch.testing.assert_close(seen[0], torch.cat([x, made]), rtol=0, atol=0)


def test_a_clips_scores_depend_on_no_other_clip_and_no_later_frame() -> None:
    critic, x = _critic(), _clips(seed=1)
    with torch.no_grad():
        scores = critic(x)
        torch.testing.assert_close(critic(x[:1]), scores[:1], rtol=0, atol=1e-5)
        changed = x.clone()
        changed[:, :, -1] = 0.0
        differs = (critic(changed) - scores).abs().amax(dim=(0, 1, 3, 4)) > 0
    assert scores.shape[:2] == (2, 1)
    assert min(scores.shape[2:]) >= 2  # patches, in time too
    assert differs[-1]
    assert not differs[:-1].any()


def test_the_critic_learns_to_tell_clips_apart() -> None:
    loss = AutoencoderLoss(AutoencoderLossConfig(adversarial=ADVERSARIAL))
    critic = _critic()
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    x, made = _clips(seed=1), _clips(seed=2).roll(1, dims=1).abs()
    values: list[float] = []
    for _ in range(8):
        optimizer.zero_grad()
        value = loss.discriminator(x, made, critic)[0]
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"l1": 0.0}, "l1=0 and l2=0, wanted a reconstruction term above 0"),
        ({"kl": -1.0}, "kl"),
        ({"perceptual": {"path": ""}}, "path"),
        ({"adversarial": {"weight": 0.1}}, "start_step"),
        ({"lpips": 1.0}, "lpips"),
    ],
)
def test_losses_that_make_no_sense_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AutoencoderLossConfig(**fields)  # pyright: ignore[reportArgumentType]


def test_a_few_steps_on_one_clip_lower_the_loss() -> None:
    torch.manual_seed(0)
    autoencoder = VideoAutoencoder(
        AutoencoderConfig(latent_channels=4, width=8, width_mults=(1, 1, 1), blocks=1, patch=2)
    )
    loss = AutoencoderLoss(AutoencoderLossConfig(l2=1.0))
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-2)
    # A bright square that moves over a dark ground.
    x = torch.full((1, 3, 5, 16, 16), -1.0)
    for frame in range(5):
        x[:, :, frame, 4:10, frame * 2 : frame * 2 + 6] = 1.0
    values: list[float] = []
    for step in range(12):
        made, posterior = autoencoder(x, _normal(1, 4, 2, 2, 2, seed=step))
        value = loss.generator(x, made, posterior, critic=None)[0]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.7 * values[0]
