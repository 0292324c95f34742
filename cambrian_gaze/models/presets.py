"""Presets: the published sizes, and a tiny model that trains in minutes on a CPU. A preset never downloads weights."""

from __future__ import annotations

import copy
import difflib
from importlib.resources import files
from pathlib import Path
from typing import Any

SIGLIP2_SO400M_16_384 = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 16,
}
"""google/siglip2-so400m-patch16-384, a `SiglipVisionModel` (the NaFlex variant is another class)."""

SIGLIP2_SO400M_16_512 = SIGLIP2_SO400M_16_384 | {"image_size": 512}
"""google/siglip2-so400m-patch16-512: 32×32 patches, as the model that the authors' page shows."""

QWEN3_4B = {
    "model_type": "qwen3",
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": True,
    "bos_token_id": 151643,
    "eos_token_id": [151645, 151643],
}
"""Qwen/Qwen3-4B. Ends: <|im_end|>, with which a turn ends, and <|endoftext|>."""

QWEN2_5_7B = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "tie_word_embeddings": False,
    "bos_token_id": 151643,
    "eos_token_id": [151645, 151643],
}
"""Qwen/Qwen2.5-7B, whose own end is <|endoftext|> alone: answers end with their turn. (The parent starts from
Qwen/Qwen2.5-7B-Instruct, of the same sizes; the paper says Qwen2.5.)"""

GAZE_72 = {"image": {"region_size": [1, 6, 6], "top_k": 2}}
"""The paper's 72+4 of 576: regions of 6×6, K=2, |C|=4."""

GAZE_128 = {"image": {"region_size": [1, 8, 8], "top_k": 2}}
"""128+4 of 1,024 at 512 px: regions of 8×8, K=2 of 16 (authors' page)."""

TINY = {
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
    },
    "text_config": {
        "model_type": "qwen3",
        "vocab_size": 512,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 24,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        "tie_word_embeddings": False,
    },
    "gaze": {"image": {"region_size": [1, 2, 2], "top_k": 2}},
    "embedding_std": 0.7,
    "context_tokens_std": 0.7,
}
"""8×8 visual tokens in 16 regions of 2×2. Embeddings at the scale of the content, without which so small a model does
not learn to use the picture."""

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": TINY,
    "4b": {"vision_config": SIGLIP2_SO400M_16_384, "text_config": QWEN3_4B, "gaze": GAZE_72},
    "7b": {"vision_config": SIGLIP2_SO400M_16_384, "text_config": QWEN2_5_7B, "gaze": GAZE_72},
    "4b-512": {"vision_config": SIGLIP2_SO400M_16_512, "text_config": QWEN3_4B, "gaze": GAZE_128},
    "7b-512": {"vision_config": SIGLIP2_SO400M_16_512, "text_config": QWEN2_5_7B, "gaze": GAZE_128},
}

TOKENIZERS = dict.fromkeys(("4b", "4b-512"), "Qwen/Qwen3-4B") | dict.fromkeys(("7b", "7b-512"), "Qwen/Qwen2.5-7B")
"""Where the tokenizer of a preset lives on the hub; "tiny" ships its own."""


def preset(name: str) -> dict[str, Any]:
    """Arguments of `CambrianGazeConfig`. Raises ValueError for an unknown name, with the nearest."""
    if name not in PRESETS:
        nearest = difflib.get_close_matches(name.lower(), PRESETS, n=1, cutoff=0.3)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"unknown preset {name!r}{hint} known: {', '.join(PRESETS)}")
    values = copy.deepcopy(PRESETS[name])
    if name == "tiny":
        tokenizer = load_tokenizer(name)
        values["text_config"]["vocab_size"] = -(-len(tokenizer) // 64) * 64
        values["text_config"]["eos_token_id"] = tokenizer.eos_token_id
        values["text_config"]["pad_token_id"] = tokenizer.pad_token_id
        for kind, token in (("image", "<|image_pad|>"), ("video", "<|video_pad|>"), ("context", "<|vision_pad|>")):
            values[f"{kind}_token_id"] = tokenizer.convert_tokens_to_ids(token)
    return values


def load_tokenizer(name: str) -> Any:
    """Tokenizer of a preset: the one shipped for "tiny", else Qwen's from the hub or its cache."""
    from transformers import AutoTokenizer

    if name == "tiny":
        return AutoTokenizer.from_pretrained(str(Path(str(files("cambrian_gaze"))) / "assets" / "tiny"))
    return AutoTokenizer.from_pretrained(TOKENIZERS[name])
