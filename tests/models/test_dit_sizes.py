"""Presets against the published tables, and the FLOP formula against torch's own counter."""

import pytest
import torch
from pydantic import ValidationError
from torch.utils.flop_counter import FlopCounterMode

from models.sora.dit import Condition, VideoDiT
from models.sora.dit_config import PRESETS, DiTConfig, Preset
from models.sora.flops import dit_flops
from tests.models.dit_parts import parameters_by_part
from tests.models.dits import CHANNELS, FUSIONS, TEXT_WIDTH, latents, text_states, times

LABELS, POSITIONS = 1001, 256  # DiT's class table (with the null class) and fixed sine table
every_fusion = pytest.mark.parametrize("config", FUSIONS.values(), ids=FUSIONS)


def on_meta(config: DiTConfig, *, channels: int = 16, text_width: int = 4096) -> VideoDiT:
    with torch.device("meta"):
        return VideoDiT(config, channels=channels, text_width=text_width)


# Peebles & Xie 2022, arXiv:2212.09748, table 4 (class-conditional, patch 2, 4 latent channels).
@pytest.mark.parametrize(("preset", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_preset_without_its_text_is_the_published_dit(preset: Preset, millions: int) -> None:
    dit = on_meta(DiTConfig(preset=preset), channels=4)
    parts = parameters_by_part(dit)
    width = dit.config.shape.width
    ours = sum(parts.values())
    added = parts["cross_attention"] + parts["qk_norm"] + parts["text"]
    # What DiT has and we have not: labels instead of text, a table of positions instead of RoPE,
    # and a variance beside each of the 16 predicted numbers of a patch.
    dropped = (LABELS + POSITIONS) * width + 16 * (width + 1)
    assert (ours - added + dropped) / 1e6 == pytest.approx(millions, rel=0.01)


def test_parts_add_up() -> None:
    for config in FUSIONS.values():
        dit = on_meta(config.model_copy(update={"condition_frames": True}))
        assert sum(parameters_by_part(dit).values()) == sum(p.numel() for p in dit.parameters())


def test_2b_preset_has_the_published_count() -> None:
    # CogVideoX-2B's transformer by the shapes of its published config: 30 blocks of 12 D^2 + two
    # 512 -> 6 D modulations, D = 1920; 4096-wide text: 1,693,783,872 weights.
    width, blocks, time = 1920, 30, 512
    linears = 12 * width**2 + 9 * width
    modulations = 2 * (time * 6 * width + 6 * width + 2 * width)
    block = linears + modulations + 4 * 64
    ends = 64 * width + width + 4096 * width + width + width * time + time + time * time + time
    ends += 2 * width + time * 2 * width + 2 * width + 2 * width + 64 * width + 64
    published = blocks * block + ends
    assert published == pytest.approx(1.69e9, rel=0.003)
    ours = sum(p.numel() for p in on_meta(DiTConfig(preset="2B")).parameters())
    assert ours == pytest.approx(published, rel=0.01)


def test_11b_preset_has_the_published_count() -> None:
    # Open-Sora 2.0 counts 11.07 B in units of 1024^3 (github.com/hpcaitech/Open-Sora, issue 832).
    ours = sum(p.numel() for p in on_meta(DiTConfig(preset="11B")).parameters())
    assert ours == pytest.approx(11.07 * 1024**3, rel=0.01)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("fusion", ["cross", "joint"])
def test_every_preset_builds_on_the_meta_device(preset: Preset, fusion: str) -> None:
    config = DiTConfig(preset=preset, text_fusion=fusion)  # pyright: ignore
    dit = on_meta(config)
    assert all(parameter.is_meta for parameter in dit.parameters())
    row = PRESETS[preset]
    assert len(dit.blocks()) == row.depth + row.single_depth
    assert sum(config.axes) == row.width // row.heads


@every_fusion
@pytest.mark.parametrize("condition_frames", [False, True])
def test_flops_are_those_that_torch_counts(config: DiTConfig, condition_frames: bool) -> None:
    config = config.model_copy(update={"condition_frames": condition_frames})
    dit = on_meta(config, channels=CHANNELS, text_width=TEXT_WIDTH)
    x_BCTHW = latents(3, 4, 6).to("meta")
    condition = Condition(x_BCTHW, x_BCTHW[:, :1]) if condition_frames else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        dit(x_BCTHW, times().to("meta"), text_states().to("meta"), condition)
    expected = dit_flops(
        config, channels=CHANNELS, grid=(3, 4, 6), text_tokens=5, text_width=TEXT_WIDTH
    )
    assert counter.get_total_flops() == 2 * expected  # two clips


def test_flops_of_xl_are_the_published_ones() -> None:
    # DiT-XL/2 at 256 px: 118.64 GFLOPs, where the paper counts a multiply-add as one. Without
    # text we differ by what reads the text, and by attention itself, which the paper counts too.
    config = DiTConfig(preset="XL")
    with_text = dit_flops(config, channels=4, grid=(1, 32, 32), text_tokens=1, text_width=64)
    video, width, depth = 256, 1152, 28
    cross = 2 * depth * (2 * (video + 1) * width**2 + 2 * video * width)
    assert (with_text - cross) / 2e9 == pytest.approx(118.64, rel=0.01)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "width, heads, depth missing"),
        ({"width": 32, "heads": 2}, "depth missing"),
        ({"preset": "S", "depth": 2}, "preset=S and depth are both given"),
        ({"width": 33, "heads": 2, "depth": 1}, "width=33 is not a multiple of heads=2"),
        ({"width": 8, "heads": 2, "depth": 1}, "width/heads=4, wanted an even number of at least"),
        ({"width": 32, "heads": 2, "depth": 0}, "depth=0"),
        ({"width": 32, "heads": 2, "depth": 1, "single_depth": 1}, "belongs to text_fusion=joint"),
        ({"width": 32, "heads": 2, "depth": 1, "rope_axes": (4, 4, 4)}, "add up to width/heads=16"),
        ({"width": 32, "heads": 2, "depth": 1, "rope_axes": (6, 5, 5)}, "three even numbers"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        DiTConfig(**fields)  # pyright: ignore


def test_own_rope_axes_are_taken() -> None:
    config = DiTConfig(width=128, heads=2, depth=1, rope_axes=(16, 24, 24))
    assert config.axes == (16, 24, 24)
