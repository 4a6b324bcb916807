"""The frozen CLIP pair against transformers' own model, on a tiny random checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from models.text.pair import ImageTextPair, build_pair
from models.text.pair_config import PretrainedPairConfig, SmallPairConfig, check_pair
from tests.models.clip_checkpoints import EMBEDDING, POSITIONS, SIDE, save_pair, text_config

CAPTIONS = ["a red three moving left", "up", ""]
ROUNDING = 1e-5  # float32 through two layers; padding changes the order of sums


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pair") / "clip"


@pytest.fixture(scope="module")
def model(folder: Path) -> CLIPModel:
    return save_pair(folder)


@pytest.fixture(scope="module")
def pair(model: CLIPModel, folder: Path) -> ImageTextPair:
    del model
    return build_pair(config(folder))


def config(folder: Path, *, max_length: int = POSITIONS) -> PretrainedPairConfig:
    return PretrainedPairConfig(kind="clip", path=str(folder), max_length=max_length)


def pictures(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def clip_pixels(x_B3SS: Tensor) -> Tensor:
    """As CLIP's preprocessing leaves pictures of the right size."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    return ((x_B3SS + 1) / 2 - mean) / std


@torch.no_grad()
def embedded(model: CLIPModel, x_B3SS: Tensor) -> Tensor:
    ids = torch.tensor([[54, 55]])
    return model(input_ids=ids, pixel_values=clip_pixels(x_B3SS)).image_embeds


def pil_resized(x_3HW: Tensor, *, side: int) -> Tensor:
    """Pillow's bicubic filter on float channels."""
    rows = [
        np.asarray(Image.fromarray(channel.numpy()).resize((side, side), Image.Resampling.BICUBIC))
        for channel in x_3HW
    ]
    return torch.from_numpy(np.stack(rows)).clamp(-1, 1)


def test_text_is_that_of_the_checkpoint(pair: ImageTextPair, model: CLIPModel) -> None:
    tokens = pair.tokenize(CAPTIONS)
    text = pair.text(tokens)
    assert (pair.width, pair.embedding_width, pair.trainable) == (32, EMBEDDING, False)
    assert text.embedding_BE.shape == (3, EMBEDDING)
    for index in range(len(CAPTIONS)):
        # One caption at a time, without padding: what the checkpoint says by itself.
        ids = tokens.ids_BL[index, tokens.mask_BL[index]][None]
        with torch.no_grad():
            out = model(input_ids=ids, pixel_values=clip_pixels(pictures(SIDE, SIDE)[:1]))
        states = out.text_model_output.last_hidden_state[0]
        actual_LD = text.states.tokens_BLD[index, text.states.mask_BL[index]]
        torch.testing.assert_close(actual_LD, states, rtol=0, atol=ROUNDING)
        torch.testing.assert_close(
            text.embedding_BE[index], out.text_embeds[0], rtol=0, atol=ROUNDING
        )


def test_image_is_that_of_the_checkpoint(pair: ImageTextPair, model: CLIPModel) -> None:
    x_B3SS = pictures(SIDE, SIDE)
    torch.testing.assert_close(pair.image(x_B3SS), embedded(model, x_B3SS), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("size", [(64, 64), (8, 8)])
def test_pictures_are_resized_as_pillow_does(
    pair: ImageTextPair, model: CLIPModel, size: tuple[int, int]
) -> None:
    x_B3HW = pictures(*size)
    resized = torch.stack([pil_resized(one, side=SIDE) for one in x_B3HW])
    torch.testing.assert_close(pair.image(x_B3HW), embedded(model, resized), rtol=0, atol=ROUNDING)


def test_of_an_oblong_picture_the_middle_is_seen(pair: ImageTextPair) -> None:
    x_B3HW = pictures(20, 32)
    torch.testing.assert_close(pair.image(x_B3HW), pair.image(x_B3HW[..., 6:26]))


def test_embeddings_have_norm_one(pair: ImageTextPair) -> None:
    text_BE = pair.text(pair.tokenize(CAPTIONS)).embedding_BE
    for embedding in (text_BE, pair.image(pictures(24, 24))):
        torch.testing.assert_close(embedding.norm(dim=1), torch.ones(len(embedding)))


def test_pair_stays_frozen(pair: ImageTextPair) -> None:
    pair.train()
    assert not any(module.training for module in pair.modules())
    assert not any(parameter.requires_grad for parameter in pair.parameters())
    assert not pair.image(pictures(16, 16).requires_grad_()).requires_grad


def test_bf16_checkpoint_gives_float32_embeddings(tmp_path: Path) -> None:
    save_pair(tmp_path / "clip", dtype=torch.bfloat16)
    pair = build_pair(config(tmp_path / "clip"))
    text = pair.text(pair.tokenize(CAPTIONS))
    assert text.states.tokens_BLD.dtype == torch.bfloat16
    assert text.embedding_BE.dtype == pair.image(pictures(16, 16)).dtype == torch.float32


def test_more_tokens_than_positions_are_refused(model: CLIPModel, folder: Path) -> None:
    del model
    with pytest.raises(ValueError, match=r"pair\.max_length=77, wanted at most 40"):
        build_pair(config(folder, max_length=77))


def test_half_a_checkpoint_is_refused(tmp_path: Path) -> None:
    text = text_config(tmp_path / "half")
    CLIPTextModel(text).save_pretrained(tmp_path / "half")
    with pytest.raises(ValueError, match=r"pair\.path=.* holds a clip_text_model, wanted clip"):
        build_pair(config(tmp_path / "half"))


def test_missing_checkpoint_is_named() -> None:
    with pytest.raises(ValueError, match=r"pair\.path=/no/such/clip: seen no such folder"):
        check_pair(config(Path("/no/such/clip")))
    check_pair(PretrainedPairConfig(kind="clip", path="openai/clip-vit-large-patch14"))
    check_pair(SmallPairConfig())
