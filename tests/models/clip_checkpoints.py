"""Tiny random CLIP checkpoints, saved as the hub has them."""

import json
from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

POSITIONS = 40
SIDE = 16  # of the pictures that the pair sees
EMBEDDING = 24


def text_config(folder: Path) -> CLIPTextConfig:
    """Saves a tokenizer of letters, and "red" as one token; returns the tower that fits it."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    names = [*letters, *(f"{letter}</w>" for letter in letters), "re", "red</w>"]
    names += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return CLIPTextConfig(
        vocab_size=len(names),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=POSITIONS,
        bos_token_id=len(names) - 2,
        eos_token_id=len(names) - 1,
        pad_token_id=len(names) - 1,
    )


def save_pair(folder: Path, *, dtype: torch.dtype = torch.float32) -> CLIPModel:
    """Both towers and their projections."""
    text = text_config(folder)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=4,
    )
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=EMBEDDING
    )
    model = CLIPModel(config).eval()
    model.to(dtype)  # pyright: ignore
    model.save_pretrained(folder)
    return model
