"""The byte tokenizer against ByT5's ids, and the encoder that is trained along."""

import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from models.text.config import Byt5Config
from models.text.encoder import TextEncoder, build_text_encoder

CAPTIONS = ["a red three moving left", "caf\u00e9 \u2192 \u65e5\u672c", ""]


def encoder(**changes: int) -> TextEncoder:
    torch.manual_seed(0)
    return build_text_encoder(Byt5Config(**changes))


def test_ids_are_those_of_byt5() -> None:
    from transformers import ByT5Tokenizer

    tokens = encoder().tokenize(CAPTIONS)
    expected = ByT5Tokenizer()(CAPTIONS)["input_ids"]
    for ids_L, mask_L, row in zip(tokens.ids_BL, tokens.mask_BL, expected, strict=True):
        assert ids_L[mask_L].tolist() == row


def test_empty_caption_is_one_end_token() -> None:
    tokens = encoder().tokenize([""])
    assert tokens.ids_BL[tokens.mask_BL].tolist() == [1]


def test_long_caption_is_cut_before_the_end_token() -> None:
    tokens = encoder(max_length=24).tokenize(["x" * 100])
    assert tokens.ids_BL.shape == (1, 24)
    assert tokens.ids_BL[0].tolist() == [ord("x") + 3] * 23 + [1]


def test_lengths_come_in_few_steps() -> None:
    lengths = {encoder().tokenize(["x" * n]).ids_BL.shape[1] for n in range(70)}
    assert lengths == {16, 32, 48, 64}


def test_padding_changes_nothing() -> None:
    text = encoder().double()
    alone = text.tokenize([CAPTIONS[0][:10]])
    padded = text.tokenize([CAPTIONS[0][:10], "x" * 60])
    short = text(alone.ids_BL, alone.mask_BL)
    long = text(padded.ids_BL, padded.mask_BL)
    # Float64; sums over masked tokens run in another order.
    torch.testing.assert_close(short.pooled_BD[0], long.pooled_BD[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(
        short.tokens_BLD[0, :11], long.tokens_BLD[0, :11], rtol=0, atol=1e-12
    )


def test_interface_of_the_trained_encoder() -> None:
    text = encoder(width=32)
    tokens = text.tokenize(CAPTIONS)
    states = text(tokens.ids_BL, tokens.mask_BL)
    assert (text.width, text.trainable) == (32, True)
    assert states.tokens_BLD.shape == (*tokens.ids_BL.shape, 32)
    assert states.pooled_BD.shape == (3, 32)
    assert torch.equal(states.mask_BL, tokens.mask_BL)


def test_order_of_words_is_seen() -> None:
    text = encoder()
    tokens = text.tokenize(["left of right", "right of left"])
    pooled_BD = text(tokens.ids_BL, tokens.mask_BL).pooled_BD
    assert not torch.allclose(pooled_BD[0], pooled_BD[1], atol=1e-4)


def test_learns_words_within_a_hundred_steps() -> None:
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    ways = ["left", "right", "up", "down"]
    captions = [f"a red {word} moving {way}" for word in words for way in ways]
    labels = torch.arange(len(captions))
    text = encoder(width=64, depth=1)
    head = torch.nn.Linear(64, len(captions))
    optimizer = torch.optim.AdamW([*text.parameters(), *head.parameters()], lr=2e-3)
    tokens = text.tokenize(captions)
    for _ in range(100):
        logits = head(text(tokens.ids_BL, tokens.mask_BL).pooled_BD)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = head(text(tokens.ids_BL, tokens.mask_BL).pooled_BD)
    assert torch.equal(logits.argmax(dim=1), labels)


def test_byte_encoder_does_not_import_transformers() -> None:
    code = "import sys, models.text.encoder; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_config_does_not_import_torch() -> None:
    code = (
        "import sys, models.text.config, models.sora.dit_config, models.sora.flops;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("changes", "words"), [({"width": 36, "heads": 4}, "2.heads=8"), ({"kernel": 4}, "odd")]
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, int], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Byt5Config(**changes)
