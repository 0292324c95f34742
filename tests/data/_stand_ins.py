"""A byte-level tokenizer with Qwen's special tokens, a processor as the dataset needs it, and small files."""

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cambrian_gaze.data.media.aspect import preprocess_images

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few merges, NFC, Qwen's way of splitting (in essence) and Qwen's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate([*alphabet, "us", "er", "user", "Ċ" * 2])}
    merges = [("u", "s"), ("e", "r"), ("us", "er"), ("Ċ", "Ċ")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        clean_up_tokenization_spaces=False,
    )


class StandInProcessor:
    """Pictures of 8x8 pixels, a grid of 2x3, two context tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.num_context_tokens = 2
        self.grid_hw = (2, 3)
        self.image_aspect_ratio = "pad"

    def preprocess_images(self, images: list[Image.Image]) -> torch.Tensor:
        return preprocess_images(images, (8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """Human and gpt by turns."""
    head = [] if system is None else [{"from": "system", "value": system}]
    return head + [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_image(path: Path, color: Any = (255, 0, 0), size: tuple[int, int] = (8, 8), mode: str = "RGB") -> str:
    """Saves a plain picture below an existing folder; its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path.name


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises much and holds nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def write_bad_images(folder: Path) -> dict[str, str]:
    """Fills a folder with files that are refused, and whole.png and whole.jpg; file name → part of the reason."""
    outside = folder.parent / f"{folder.name}-outside.png"
    write_image(outside)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    noise.save(folder / "whole.png")
    noise.save(folder / "whole.jpg")
    for suffix in ("png", "jpg"):
        whole = (folder / f"whole.{suffix}").read_bytes()
        (folder / f"cut.{suffix}").write_bytes(whole[: len(whole) // 2])
    (folder / "text.png").write_text("no picture at all")
    (folder / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    (folder / "empty.png").write_bytes(b"")
    (folder / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (folder / "large.png").write_bytes(png_header(12_000, 12_000))
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to(outside)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    return {
        "missing.png": "cannot be found",
        "loop.png": "cannot be found",
        "cut.png": "truncated or damaged",
        "cut.jpg": "truncated or damaged",
        "text.png": "is not an image",
        "page.eps": "is not an image",
        "empty.png": "is empty",
        "bomb.png": "too large to decode|more than the",
        "large.png": "more than the",
        "folder.png": "is a folder",
        "pipe.png": "not a regular file",
        "link.png": "lies outside the folder",
        f"../{outside.name}": "lies outside the folder",
        str(outside): "lies outside the folder",
        "../none.png": "lies outside the folder",
        "nul\0.png": "is no file name",
        "\ud800.png": "is no file name",
    }
