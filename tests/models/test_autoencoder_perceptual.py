"""The perceptual term, with small weights written here and read by the real loader."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from models.sora.autoencoder_config import PerceptualConfig
from models.sora.perceptual import VGG_STAGES, PerceptualDistance

WIDTHS = (4, 6)  # channels of the stages that the file compares
SIZE = (2, 3, 3, 8, 8)


def vgg_weights() -> dict[str, Tensor]:
    """VGG-like weights of two narrow stages; LPIPS' shares are never negative."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    source = 3
    for stage, (width, numbers) in enumerate(zip(WIDTHS, VGG_STAGES, strict=False)):
        for number in numbers:
            kernel = torch.randn(width, source, 3, 3, generator=generator)
            tensors[f"features.{number}.weight"] = kernel / (3 * source**0.5)
            tensors[f"features.{number}.bias"] = torch.randn(width, generator=generator) / 10
            source = width
        tensors[f"lin.{stage}.weight"] = torch.rand(width, generator=generator) + 0.1
    return tensors


def _save(folder: Path, tensors: dict[str, Tensor]) -> PerceptualConfig:
    path = folder / "vgg.safetensors"
    save_file(tensors, path)
    return PerceptualConfig(path=str(path))


def _clips(seed: int) -> Tensor:
    return torch.rand(SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture
def distance(tmp_path: Path) -> PerceptualDistance:
    return PerceptualDistance(_save(tmp_path, vgg_weights()))


def _slow(a_B3THW: Tensor, b_B3THW: Tensor) -> float:
    """Equation 1 of LPIPS (arXiv:1801.03924), frame by frame and position by position."""
    weights = {name: tensor.double() for name, tensor in vgg_weights().items()}
    mean = torch.tensor([0.485, 0.456, 0.406]).double().view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).double().view(3, 1, 1)

    def stages(frame_3HW: Tensor) -> list[Tensor]:
        h = ((frame_3HW.double() + 1) / 2 - mean) / std
        found: list[Tensor] = []
        for stage, numbers in enumerate(VGG_STAGES[: len(WIDTHS)]):
            if stage:
                h = F.max_pool2d(h, 2)
            for number in numbers:
                kernel, bias = (weights[f"features.{number}.{part}"] for part in ("weight", "bias"))
                h = F.conv2d(h[None], kernel, bias, padding=1)[0].clamp_min(0)
            found.append(h)
        return found

    clips, _, frames = a_B3THW.shape[:3]
    total = 0.0
    for clip in range(clips):
        for frame in range(frames):
            pairs = zip(
                stages(a_B3THW[clip, :, frame]), stages(b_B3THW[clip, :, frame]), strict=True
            )
            for stage, (a, b) in enumerate(pairs):
                _, height, width = a.shape
                for y in range(height):
                    for x in range(width):
                        u, v = a[:, y, x], b[:, y, x]
                        u, v = u / u.norm().clamp_min(1e-12), v / v.norm().clamp_min(1e-12)
                        square = weights[f"lin.{stage}.weight"] * (u - v) ** 2
                        total += square.sum().item() / (height * width)
    return total / (clips * frames)


@torch.no_grad()
def test_it_is_equation_1_frame_by_frame(distance: PerceptualDistance) -> None:
    a, b = _clips(1), _clips(2)
    # Float32 convolutions against float64 ones.
    assert distance(a, b).item() == pytest.approx(_slow(a, b), rel=1e-5)


@torch.no_grad()
def test_it_is_zero_for_equal_clips_and_grows_with_the_difference(
    distance: PerceptualDistance,
) -> None:
    x, change = _clips(1), _clips(2) / 2
    found = [distance(x + size * change, x).item() for size in (0.0, 0.1, 0.3, 1.0)]
    assert found[0] == 0.0
    assert found == sorted(found)
    assert len(set(found)) == len(found)


def test_only_the_reconstruction_gets_a_gradient(distance: PerceptualDistance) -> None:
    x, made = _clips(1), _clips(2).requires_grad_()
    distance(made, x).backward()
    assert made.grad is not None
    assert torch.isfinite(made.grad).all()
    assert made.grad.abs().max().item() > 0
    assert not list(distance.parameters())
    assert not distance.state_dict()  # the file holds them; a checkpoint need not


def test_equal_clips_give_a_finite_gradient(distance: PerceptualDistance) -> None:
    made = _clips(1).requires_grad_()
    distance(made, _clips(1)).backward()
    assert made.grad is not None
    assert torch.isfinite(made.grad).all()


@torch.no_grad()
def test_stages_without_shares_at_the_end_are_left_out(tmp_path: Path) -> None:
    tensors = vgg_weights()
    both = PerceptualDistance(_save(tmp_path, tensors))
    del tensors["lin.1.weight"]
    first = PerceptualDistance(_save(tmp_path, tensors))
    assert 0 < first(_clips(1), _clips(2)).item() < both(_clips(1), _clips(2)).item()


@pytest.mark.parametrize("name", ["features.2.bias", "features.5.weight"])
def test_a_file_without_a_layer_is_refused_by_the_layers_name(tmp_path: Path, name: str) -> None:
    tensors = vgg_weights()
    del tensors[name]
    config = _save(tmp_path, tensors)
    with pytest.raises(ValueError, match=rf"^objective.perceptual.path=.*holds no {name}.*$"):
        PerceptualDistance(config)


def test_a_file_without_shares_is_refused(tmp_path: Path) -> None:
    tensors = {name: one for name, one in vgg_weights().items() if not name.startswith("lin")}
    config = _save(tmp_path, tensors)
    with pytest.raises(ValueError, match=r"holds no lin\.0\.weight, wanted VGG-16 features"):
        PerceptualDistance(config)


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("features.2.weight", (4, 5, 3, 3), r"\[out, 4, 3, 3\]"),
        ("features.0.weight", (4, 3), r"\[out, 3, 3, 3\]"),
        ("features.2.bias", (3,), r"\[4\]"),
        ("lin.0.weight", (5,), r"4 values"),
    ],
)
def test_weights_that_do_not_fit_each_other_are_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], wanted: str
) -> None:
    config = _save(tmp_path, vgg_weights() | {name: torch.ones(shape)})
    with pytest.raises(ValueError, match=rf"{name}.*of shape.*, wanted {wanted}$"):
        PerceptualDistance(config)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    path = str(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"^objective\.perceptual\.path=.* cannot be read: .*$"):
        PerceptualDistance(PerceptualConfig(path=path))


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    config = _save(tmp_path, vgg_weights())
    whole = Path(config.path).read_bytes()
    Path(config.path).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"^objective\.perceptual\.path=.* cannot be read: .*$"):
        PerceptualDistance(config)
