"""T5 and CLIP encoders: tiny random checkpoints, saved and loaded through the real code."""

import io
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import (
    ByT5Tokenizer,
    CLIPTextModel,
    T5EncoderModel,
    T5ForConditionalGeneration,
    T5Tokenizer,
    UMT5EncoderModel,
)
from transformers import T5Config as HfT5Config
from transformers import UMT5Config as HfUMT5Config

from models.text.config import Byt5Config, ClipConfig, Dtype, T5Config, check_text
from models.text.encoder import build_text_encoder
from tests.models.clip_checkpoints import text_config

CAPTIONS = ["a red three moving left", "up", ""]
SIZES = {"vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}


def save_t5(folder: Path, *, dtype: torch.dtype = torch.float32) -> T5EncoderModel:
    torch.manual_seed(0)
    model = T5EncoderModel(HfT5Config(**SIZES)).to(dtype).eval()
    model.save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return model


def save_spiece(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """A vocabulary in the only form that google/t5-v1_1-xxl has."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS * 4),
        model_writer=trained,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(trained.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())


def save_clip(folder: Path) -> CLIPTextModel:
    config = text_config(folder)
    torch.manual_seed(0)
    model = CLIPTextModel(config).eval()
    model.save_pretrained(folder)
    return model


def test_t5_states_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    model = save_t5(tmp_path / "t5")
    text = build_text_encoder(T5Config(kind="t5", path=str(tmp_path / "t5"), max_length=64))
    tokens = text.tokenize(CAPTIONS)
    states = text(tokens.ids_BL, tokens.mask_BL)
    assert (text.width, text.trainable) == (32, False)
    assert tokens.mask_BL.sum(dim=1).tolist() == [24, 3, 1]
    for index, caption in enumerate(CAPTIONS):
        # One caption at a time, without padding: what the checkpoint says by itself.
        ids = torch.tensor([[byte + 3 for byte in caption.encode()] + [1]])
        with torch.no_grad():
            expected_LD = model(input_ids=ids).last_hidden_state[0]
        actual_LD = states.tokens_BLD[index, states.mask_BL[index]]
        # Float32 through two layers; padding changes the order of sums.
        torch.testing.assert_close(actual_LD, expected_LD, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            states.pooled_BD[index], expected_LD.mean(dim=0), rtol=1e-5, atol=1e-5
        )


def test_encoder_half_of_a_full_t5_checkpoint_loads_silently(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    full = T5ForConditionalGeneration(HfT5Config(**SIZES, decoder_start_token_id=0)).eval()
    full.save_pretrained(tmp_path / "full")
    ByT5Tokenizer().save_pretrained(tmp_path / "full")
    capfd.readouterr()
    text = build_text_encoder(T5Config(kind="t5", path=str(tmp_path / "full")))
    assert capfd.readouterr() == ("", "")
    tokens = text.tokenize(["up"])
    with torch.no_grad():
        expected = full.get_encoder()(input_ids=tokens.ids_BL).last_hidden_state
    actual = text(tokens.ids_BL, tokens.mask_BL).tokens_BLD
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_sentencepiece_vocabulary_gives_its_own_ids(tmp_path: Path) -> None:
    T5EncoderModel(HfT5Config(**SIZES)).save_pretrained(tmp_path)
    pieces = save_spiece(tmp_path)
    text = build_text_encoder(T5Config(kind="t5", path=str(tmp_path)))
    tokens = text.tokenize(CAPTIONS)
    for index, caption in enumerate(CAPTIONS):
        expected = [*pieces.encode(caption), 1]
        assert tokens.ids_BL[index, tokens.mask_BL[index]].tolist() == expected


def test_umt5_is_loaded_by_its_own_class(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = UMT5EncoderModel(HfUMT5Config(**SIZES)).eval()
    model.save_pretrained(tmp_path)
    save_spiece(tmp_path)
    T5Tokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)  # UMT5 has a tokenizer.json
    text = build_text_encoder(T5Config(kind="t5", path=str(tmp_path)))
    tokens = text.tokenize(["up"])
    with torch.no_grad():
        expected = model(input_ids=tokens.ids_BL).last_hidden_state
    actual = text(tokens.ids_BL, tokens.mask_BL).tokens_BLD
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("stored", "asked", "wanted"),
    [
        (torch.bfloat16, "auto", torch.bfloat16),
        (torch.float32, "bfloat16", torch.bfloat16),
        (torch.bfloat16, "float32", torch.float32),
    ],
)
def test_weights_have_the_dtype_that_was_asked_for(
    stored: torch.dtype, asked: Dtype, wanted: torch.dtype, tmp_path: Path
) -> None:
    save_t5(tmp_path / "t5", dtype=stored)
    text = build_text_encoder(T5Config(kind="t5", path=str(tmp_path / "t5"), dtype=asked))
    tokens = text.tokenize(["up"])
    states = text(tokens.ids_BL, tokens.mask_BL)
    assert states.tokens_BLD.dtype == states.pooled_BD.dtype == wanted


def test_clip_states_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    model = save_clip(tmp_path / "clip")
    text = build_text_encoder(ClipConfig(kind="clip", path=str(tmp_path / "clip"), max_length=40))
    tokens = text.tokenize(CAPTIONS)
    states = text(tokens.ids_BL, tokens.mask_BL)
    assert (text.width, text.trainable) == (32, False)
    assert int(tokens.mask_BL[2].sum()) == 2  # start and end
    assert tokens.ids_BL[0, 2].item() == 53  # "red" is one merged token
    for index in range(len(CAPTIONS)):
        ids_L = tokens.ids_BL[index, tokens.mask_BL[index]]
        with torch.no_grad():
            expected = model(input_ids=ids_L[None])
        actual_LD = states.tokens_BLD[index, states.mask_BL[index]]
        torch.testing.assert_close(actual_LD, expected.last_hidden_state[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            states.pooled_BD[index], expected.pooler_output[0], rtol=1e-5, atol=1e-5
        )


def test_captions_are_cut_to_max_length(tmp_path: Path) -> None:
    save_clip(tmp_path / "clip")
    text = build_text_encoder(ClipConfig(kind="clip", path=str(tmp_path / "clip"), max_length=8))
    tokens = text.tokenize(["x y z x y z x y z x y z"])
    assert tokens.ids_BL.shape == (1, 8)
    assert tokens.ids_BL[0, -1].item() == 55  # the end token is kept


def test_more_tokens_than_clip_has_positions_are_refused(tmp_path: Path) -> None:
    save_clip(tmp_path / "clip")
    with pytest.raises(ValueError, match="max_length=77, wanted at most 40"):
        build_text_encoder(ClipConfig(kind="clip", path=str(tmp_path / "clip")))


def test_frozen_encoder_stays_frozen(tmp_path: Path) -> None:
    save_t5(tmp_path / "t5")
    text = build_text_encoder(T5Config(kind="t5", path=str(tmp_path / "t5"))).train()
    tokens = text.tokenize(["up"])
    states = text(tokens.ids_BL, tokens.mask_BL)
    assert not any(module.training for module in text.modules())
    assert not any(parameter.requires_grad for parameter in text.parameters())
    assert not states.tokens_BLD.requires_grad


def test_checkpoint_of_another_family_is_refused(tmp_path: Path) -> None:
    save_t5(tmp_path / "t5")
    with pytest.raises(ValueError, match="holds a t5, wanted clip or clip_text_model"):
        build_text_encoder(ClipConfig(kind="clip", path=str(tmp_path / "t5")))


def test_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    save_t5(tmp_path / "t5")
    (tmp_path / "t5" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"text\.path=.*cannot be loaded") as caught:
        build_text_encoder(T5Config(kind="t5", path=str(tmp_path / "t5")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/no/such/t5", "./t5", "../t5", "t5", "~/no-such-t5", "a/b/c"])
def test_path_that_does_not_exist_is_named(path: str) -> None:
    with pytest.raises(ValueError, match=rf"text\.path={path}: seen no such folder, wanted"):
        check_text(T5Config(kind="t5", path=path))
    with pytest.raises(ValueError, match="seen no such folder"):
        build_text_encoder(ClipConfig(kind="clip", path=path))


def test_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"seen no config\.json in it, wanted"):
        check_text(T5Config(kind="t5", path=str(tmp_path)))


def test_hub_names_and_the_byte_encoder_pass() -> None:
    check_text(T5Config(kind="t5", path="google/t5-v1_1-xxl"))
    check_text(Byt5Config())
