"""Tiny models of the families that gaze attaches to, inputs for them, and attention with the choice as loops."""

from typing import NamedTuple

import torch
from torch import nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

IMAGE, VIDEO = 3, 4
TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}


class Case(NamedTuple):
    """A model, inputs of two rows (the second padded on the left), and the region of every token."""

    model: nn.Module
    inputs: dict[str, torch.Tensor]
    region: torch.Tensor
    """int64 [B, S], -1 for none; written down here, not derived."""
    text: torch.Tensor
    """bool [B, S]: tokens that choose regions."""


def onevision() -> Case:
    """Row 0 holds a tiled picture, row 1 two without tiles and a video of 2 frames: 4×4 patches a tile."""
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 2,
        },
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        image_grid_pinpoints=[[8, 8], [8, 16], [16, 8]],
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    # 8×16 pixels: an overview of 4×4, then tiles of 4×8 and a newline per row.
    overview = [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
    row = [4, 4, 5, 5, 6, 6, 7, 7, 8]
    low = [r + 5 for r in row]
    tiled = overview + row + row + low + low
    second = [r + 4 for r in overview]
    video = [8] * 4 + [9] * 4  # a frame is pooled to 2×2, one region
    rows = [
        [("text", [7, 8]), ("image", tiled), ("text", [9, 10, 11])],
        [
            ("text", [7]),
            ("image", [*overview, None]),
            ("text", [12]),
            ("image", [*second, None]),
            ("video", [*video, None]),
            ("text", [13, 14]),
        ],
    ]
    ids, mask, region, text = _rows(rows)
    pixels = torch.randn(3, 3, 3, 8, 8)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": pixels,
        "image_sizes": torch.tensor([[8, 16], [8, 8], [8, 8]]),
        "batch_num_images": torch.tensor([1, 2]),
        "pixel_values_videos": torch.randn(1, 2, 3, 8, 8),
    }
    return Case(model, inputs, region, text)


def qwen(kind: str) -> Case:
    """Row 0 holds two pictures, row 1 a video of 2 time steps; grids after the 2×2 merger: 2×4, 2×2 and 2×(2×2)."""
    vision = {"depth": 2, "num_heads": 2, "patch_size": 2, "in_chans": 3, "in_channels": 3, "spatial_merge_size": 2}
    vision |= {"temporal_patch_size": 2}
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
        config_class, model_class = Qwen2VLConfig, Qwen2VLForConditionalGeneration
    else:
        vision |= {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32, "window_size": 8}
        vision |= {"fullatt_block_indexes": [1]}
        config_class, model_class = Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    config = config_class(
        vision_config=vision,
        text_config=TEXT | {"rope_parameters": rope},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=5,
        vision_end_token_id=6,
    )
    torch.manual_seed(0)
    model = model_class(config).eval()
    rows = [
        [
            ("text", [7, 5]),
            ("image", [0, 0, 1, 1, 0, 0, 1, 1]),
            ("text", [6, 8, 5]),
            ("image", [2] * 4),
            ("text", [6, 9, 10, 11]),
        ],
        [("text", [12, 5]), ("video", [0] * 4 + [1] * 4), ("text", [6, 13, 14])],
    ]
    ids, mask, region, text = _rows(rows)
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "pixel_values": torch.randn(4 * 8 + 4 * 4, 3 * 2 * 2 * 2),
        "image_grid_thw": torch.tensor([[1, 4, 8], [1, 4, 4]]),
        "pixel_values_videos": torch.randn(2 * 4 * 4, 3 * 2 * 2 * 2),
        "video_grid_thw": torch.tensor([[2, 4, 4]]),
        "mm_token_type_ids": (ids == IMAGE).long() + 2 * (ids == VIDEO).long(),
    }
    return Case(model, inputs, region, text)


def _rows(rows):
    """Ids, mask, regions and choosing tokens of rows, padded on the left."""
    lengths = [sum(len(tokens) for _, tokens in row) for row in rows]
    shape = (len(rows), max(lengths))
    ids, mask, region = torch.zeros(shape).long(), torch.zeros(shape).long(), torch.full(shape, -1)
    text = torch.zeros(shape).bool()
    for number, row in enumerate(rows):
        at = shape[1] - lengths[number]
        mask[number, at:] = 1
        for kind, tokens in row:
            for token in tokens:
                ids[number, at] = token if kind == "text" else {"image": IMAGE, "video": VIDEO}[kind]
                text[number, at] = kind == "text"
                if kind != "text" and token is not None:
                    region[number, at] = token
                at += 1
    return ids, mask, region, text


def attention_by_loops(case: Case, k: int, counts: list[int]):
    """An attention function for one call on `case`: every text query of every head chooses `k` regions by the mean of
    their keys. Appends the visual keys seen to `counts` for each text query after a picture; newlines, which are text
    that does not choose, see all before them."""

    def forward(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        heads, groups = query.shape[1], key.shape[1]
        out = torch.zeros_like(query)
        for b in range(query.shape[0]):
            for h in range(heads):
                keys, values = key[b, h * groups // heads], value[b, h * groups // heads]
                for s in range(query.shape[2]):
                    q = query[b, h, s]
                    seen = [t for t in range(s + 1) if case.inputs["attention_mask"][b, t]] or [s]
                    if case.text[b, s] and case.inputs["attention_mask"][b, s]:
                        seen = _look(seen, case.region[b].tolist(), q, keys, k, counts)
                    elif case.inputs["input_ids"][b, s] in (IMAGE, VIDEO) and case.region[b, s] < 0:
                        counts.append(int((case.region[b, :s] >= 0).sum()))
                    weights = torch.softmax(torch.stack([q @ keys[t] * scaling for t in seen]), 0)
                    out[b, h, s] = sum(w * values[t] for w, t in zip(weights, seen, strict=True))
        return out.transpose(1, 2), None

    return forward


def _look(seen, region, q, keys, k, counts):
    members = {r: [t for t in seen if region[t] == r] for r in sorted({region[t] for t in seen} - {-1})}
    if not members:
        return seen
    score = {r: float(q @ torch.stack([keys[t] for t in ts]).mean(0)) for r, ts in members.items()}
    chosen = sorted(score, key=lambda r: -score[r])[:k]
    counts.append(sum(len(members[r]) for r in chosen))
    return [t for t in seen if region[t] == -1 or region[t] in chosen]
