"""The sampling chain with the real networks in small sizes."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.config import (
    DiffusionConfig,
    FlowConfig,
    GuidanceConfig,
    OscillationConfig,
    SamplerConfig,
)
from models.diffusion.objective import build_objective
from models.sora.autoencoder import VideoAutoencoder
from models.sora.autoencoder_config import AutoencoderConfig
from models.sora.dit import VideoDiT
from models.sora.dit_config import DiTConfig
from models.sora.sample import SoraChain
from models.text.config import Byt5Config
from models.text.encoder import build_text_encoder

SIZE = (16, 24)
GRID = (3, 4, 6)  # of 9 frames
FRAMES = 9
CHANNELS = 4
ROUNDING = 1e-5  # float32 over a few steps and layers; other matrix sizes round otherwise
PROMPTS = ["a red three moving left", "a blue nine"]
EULER = SamplerConfig(steps=3)
GUIDED = SamplerConfig(steps=4, guidance=GuidanceConfig(scale=3.0, interval=(0.4, 0.8)))


def _randomise(module: nn.Module, *, seed: int, gain: float = 1.0) -> None:
    """Weights without the zero gates of a fresh transformer."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan = parameter[0].numel() if parameter.dim() > 1 else 25
        parameter.data = torch.randn(parameter.shape, generator=generator) * gain / fan**0.5


def _chain(
    *,
    objective: FlowConfig | DiffusionConfig | None = None,
    condition_frames: bool = True,
    is_fresh: bool = False,
) -> SoraChain:
    autoencoder = VideoAutoencoder(
        AutoencoderConfig(
            latent_channels=CHANNELS, width=8, width_mults=(1, 1, 2), blocks=1, space_factor=4
        )
    )
    text = build_text_encoder(Byt5Config(width=16, depth=1, heads=2, max_length=32))
    dit = VideoDiT(
        DiTConfig(depth=2, width=48, heads=2, patch=(1, 2, 2), condition_frames=condition_frames),
        channels=CHANNELS,
        text_width=text.width,
    )
    _randomise(autoencoder, seed=0)
    _randomise(text, seed=1)
    if not is_fresh:
        _randomise(dit, seed=2, gain=2.0)
    autoencoder.latent_mean.copy_(torch.tensor([0.5, -1.0, 0.0, 2.0]))
    autoencoder.latent_std.copy_(torch.tensor([2.0, 0.5, 1.0, 1.5]))
    for module in (autoencoder, dit, text):
        module.eval()
    return SoraChain(
        autoencoder=autoencoder,
        dit=dit,
        text=text,
        objective=build_objective(objective or FlowConfig()),
    )


@pytest.fixture(scope="module")
def chain() -> SoraChain:
    return _chain()


@pytest.fixture
def seen(chain: SoraChain) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """(noisy latents, times) of every call of the transformer."""
    calls: list[tuple[Tensor, Tensor]] = []
    handle = chain.dit.register_forward_pre_hook(
        lambda module, args: calls.append((args[0].clone(), args[1].clone()))
    )
    yield calls
    handle.remove()


def _video(clips: int, frames: int, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(clips, 3, frames, *SIZE, generator=generator) * 2 - 1


def _sample(chain: SoraChain, **changes: object) -> Tensor:
    given = {
        "prompts": PROMPTS,
        "frames": FRAMES,
        "size": SIZE,
        "sampler": EULER,
        "seeds": [1, 2],
    }
    given.update(changes)
    return chain.sample(**given)  # pyright: ignore[reportArgumentType]


def _decoded(chain: SoraChain, latents: Tensor) -> Tensor:
    with torch.no_grad():
        return chain.autoencoder.decode(chain.autoencoder.denormalise(latents)).clamp(-1, 1)


def test_a_fresh_flow_model_decodes_the_noise_of_its_seeds() -> None:
    """Its velocity is 0 everywhere, so the latents at time 0 are the noise itself."""
    fresh = _chain(is_fresh=True)
    noise = torch.stack(
        [
            torch.randn(CHANNELS, *GRID, generator=torch.Generator().manual_seed(seed))
            for seed in (1, 2)
        ]
    )
    video = _sample(fresh)
    assert video.shape == (2, 3, FRAMES, *SIZE)
    assert video.dtype == torch.float32
    torch.testing.assert_close(video, _decoded(fresh, noise), rtol=0, atol=ROUNDING)


def test_pixels_stay_in_range(chain: SoraChain) -> None:
    video = _sample(chain)
    assert bool((video.abs() <= 1).all())
    assert video.std().item() > 0.01


def test_prompt_and_seed_decide_the_clip(chain: SoraChain) -> None:
    first = _sample(chain)
    torch.testing.assert_close(_sample(chain), first, rtol=0, atol=0)
    for changes in ({"prompts": ["a green one", PROMPTS[1]]}, {"seeds": [3, 2]}):
        moved = (_sample(chain, **changes) - first).abs()
        assert moved[0].max().item() > 100 * ROUNDING
        assert moved[1].max().item() < ROUNDING


@pytest.mark.parametrize("kind", ["euler", "heun", "ddpm", "dpmpp_2m"])
def test_a_clip_does_not_depend_on_its_batch_mates(chain: SoraChain, kind: str) -> None:
    sampler = GUIDED.model_copy(update={"kind": kind})
    together = _sample(chain, sampler=sampler)
    alone = _sample(chain, sampler=sampler, prompts=PROMPTS[1:], seeds=[2])
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=ROUNDING)


def test_guidance_doubles_the_batch_only_in_its_interval(
    chain: SoraChain, seen: list[tuple[Tensor, Tensor]]
) -> None:
    _sample(chain, sampler=GUIDED)
    assert [(len(x), t_B[0].item()) for x, t_B in seen] == [
        (2, 1.0),
        (4, 0.75),
        (4, 0.5),
        (2, 0.25),
    ]


def test_oscillating_guidance_doubles_the_batch_in_every_high_step(
    chain: SoraChain, seen: list[tuple[Tensor, Tensor]]
) -> None:
    guidance = GuidanceConfig(scale=3.0, oscillation=OscillationConfig(low=1.0, constant_share=0.4))
    _sample(chain, sampler=SamplerConfig(steps=5, guidance=guidance))
    assert [len(x) for x, _ in seen] == [4, 4, 4, 2, 4]


def test_guidance_away_from_the_empty_caption_changes_nothing_for_it(chain: SoraChain) -> None:
    plain = _sample(chain, prompts=["", ""])
    pushed = _sample(
        chain, prompts=["", ""], sampler=SamplerConfig(steps=3, guidance=GuidanceConfig(scale=5.0))
    )
    torch.testing.assert_close(pushed, plain, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    "objective",
    [
        FlowConfig(shift=3.0),
        DiffusionConfig(kind="epsilon", schedule="cosine"),
        DiffusionConfig(kind="x0", schedule="linear"),
        DiffusionConfig(kind="v", schedule="zero_snr"),
    ],
    ids=lambda config: config.kind,
)
@pytest.mark.parametrize("kind", ["euler", "heun", "ddim", "ddpm", "dpmpp_2m"])
def test_given_frames_come_back_under_every_objective_and_sampler(
    objective: FlowConfig | DiffusionConfig, kind: str
) -> None:
    chain = _chain(objective=objective)
    guidance = GuidanceConfig(scale=4.0, rescale=0.7)
    sampler = SamplerConfig.model_validate({"kind": kind, "steps": 3, "guidance": guidance})
    given = _video(2, 5)
    clip = _sample(chain, sampler=sampler, condition_video=given)
    with torch.no_grad():
        latents = chain.autoencoder.normalise(chain.autoencoder.encode(given).mean)
    torch.testing.assert_close(clip[:, :, :5], _decoded(chain, latents), rtol=0, atol=ROUNDING)
    assert bool(clip.isfinite().all())


def test_given_frames_stay_on_the_training_path(
    chain: SoraChain, seen: list[tuple[Tensor, Tensor]]
) -> None:
    given = _video(2, 1)
    _sample(chain, condition_video=given, sampler=SamplerConfig(steps=5))
    with torch.no_grad():
        latents = chain.autoencoder.normalise(chain.autoencoder.encode(given).mean)
    noise = seen[0][0][:, :, :1]
    for x_BCTHW, t_B in seen:
        t = t_B[0].item()
        wanted = (1 - t) * latents + t * noise
        torch.testing.assert_close(x_BCTHW[:, :, :1], wanted, rtol=0, atol=ROUNDING)


def test_given_frames_change_what_follows(chain: SoraChain) -> None:
    white = torch.ones(2, 3, 1, *SIZE)
    first = _sample(chain, condition_video=white)
    second = _sample(chain, condition_video=-white)
    assert (first - second)[:, :, 5:].abs().max().item() > 100 * ROUNDING


def test_extension_keeps_the_video_and_continues_from_its_last_frames(chain: SoraChain) -> None:
    video = _video(2, 7)
    longer = chain.extend(video, PROMPTS, given=5, frames=FRAMES, sampler=EULER, seeds=[1, 2])
    assert longer.shape == (2, 3, 11, *SIZE)
    torch.testing.assert_close(longer[:, :, :7], video, rtol=0, atol=0)
    clip = _sample(chain, condition_video=video[:, :, 2:])
    torch.testing.assert_close(longer[:, :, 7:], clip[:, :, 5:], rtol=0, atol=0)


def test_a_long_clip_passes_the_autoencoder_in_chunks_to_the_same_video(
    monkeypatch: pytest.MonkeyPatch, chain: SoraChain
) -> None:
    given = _video(2, 5)
    whole = _sample(chain, condition_video=given)
    monkeypatch.setattr("models.sora.sample.WHOLE_FRAMES", 4)
    monkeypatch.setattr(chain.autoencoder, "decode", None)
    monkeypatch.setattr(chain.autoencoder, "encode", None)
    found = _sample(chain, condition_video=given)
    torch.testing.assert_close(found, whole, rtol=0, atol=ROUNDING)


def test_large_frames_pass_the_autoencoder_in_tiles(
    monkeypatch: pytest.MonkeyPatch, chain: SoraChain
) -> None:
    """One tile over the frame gives the same video; two of them are seen in the pixels."""
    given = _video(2, 5)
    whole = _sample(chain, condition_video=given)
    monkeypatch.setattr("models.sora.sample.WHOLE_SIDE", 20)
    monkeypatch.setattr("models.sora.sample.TILE", 24)
    monkeypatch.setattr("models.sora.sample.OVERLAP", 12)
    monkeypatch.setattr(chain.autoencoder, "decode", None)
    monkeypatch.setattr(chain.autoencoder, "encode", None)
    covered = _sample(chain, condition_video=given)
    torch.testing.assert_close(covered, whole, rtol=0, atol=ROUNDING)
    monkeypatch.setattr("models.sora.sample.TILE", 16)
    monkeypatch.setattr("models.sora.sample.OVERLAP", 8)
    cut = _sample(chain, condition_video=given)
    assert cut.shape == whole.shape
    assert (cut - whole).abs().max().item() > ROUNDING


def test_another_size_than_training_is_sampled(chain: SoraChain) -> None:
    assert _sample(chain, frames=1, size=(24, 16)).shape == (2, 3, 1, 24, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1]}, "got 2 prompts and 1 seeds"),
        ({"prompts": [], "seeds": []}, "got 0 prompts"),
        ({"frames": 8}, "8"),
        ({"condition_video": _video(2, FRAMES)}, "below 9"),
        ({"condition_video": _video(1, 1)}, r"condition_video has shape \(1, 3, 1, 16, 24\)"),
        ({"condition_video": _video(2, 2)}, "2"),
    ],
)
def test_requests_that_do_not_fit_are_refused(
    chain: SoraChain, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _sample(chain, **changes)


def test_a_model_without_conditioning_takes_no_frames() -> None:
    plain = _chain(condition_frames=False)
    assert _sample(plain).shape == (2, 3, FRAMES, *SIZE)
    with pytest.raises(ValueError, match="condition_frames=false"):
        _sample(plain, condition_video=_video(2, 1))


def test_a_video_shorter_than_the_given_frames_is_refused(chain: SoraChain) -> None:
    with pytest.raises(ValueError, match="given=5 frames, wanted 1 to 3"):
        chain.extend(_video(2, 3), PROMPTS, given=5, frames=9, sampler=EULER, seeds=[1, 2])
