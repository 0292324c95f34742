"""Traces without a model: noise for pictures, and choices that a seed decides or the test gives."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cambrian_gaze.viz.trace import ALL, Trace, TraceItem
from cambrian_gaze.viz.trace_data import encode_picture
from tests.viz._stand_in import tiling


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture whose pixels all change under a wash (blue is high) and are none of the outlines' red."""
    pixels = np.random.default_rng(seed).integers(0, 200, (height, width, 3), dtype=np.uint8)
    pixels[..., 2] = 250
    return Image.fromarray(pixels)


def make_trace(
    pictures: list[list[Image.Image]] | None = None,
    *,
    grid: tuple[int, int] = (6, 6),
    region: tuple[int, int] = (2, 2),
    tokens: list[str] | None = None,
    layers: int = 2,
    heads: int = 3,
    k: int = 2,
    aspect: str = "square",
    chosen: np.ndarray | None = None,
    prompt: str = "What is this?",
    seed: int = 0,
) -> Trace:
    """`pictures`: the frames of each item; one frame is an image. `chosen`: [T, L, H, K], default at random. Attention
    weights: `with_weights`."""
    pictures = [[noise(48, 48)]] if pictures is None else pictures
    tokens = ["A", " page", " of", " digits", ".", "<end>"] if tokens is None else tokens
    draw = np.random.default_rng(seed)
    boxes = [box for item, frames in enumerate(pictures) for box in tiling(*grid, region, len(frames), item)]
    if chosen is None:
        order = draw.random((len(tokens), layers, heads, len(boxes))).argpartition(k - 1, axis=-1)
        chosen = order[..., :k]
    steps = len(tokens)
    items = [
        TraceItem(
            "image" if len(frames) == 1 else "video",
            (len(frames), *grid),
            frames[0].size,
            [encode_picture(frame)[0] for frame in frames],
            f"{number}.png",
            "0" * 64,
        )
        for number, frames in enumerate(pictures)
    ]
    top = np.sort(-draw.exponential(2.0, (steps, 5)).astype(np.float32), axis=1)[:, ::-1]
    return Trace(
        prompt=prompt,
        tokens=tokens,
        token_ids=np.arange(steps),
        special=np.array([token.startswith("<end") for token in tokens]),
        regions=chosen.astype(np.int32),
        attended=np.broadcast_to(np.array([8, 4, 30], dtype=np.int32), (*chosen.shape[:3], 3)).copy(),
        boxes=np.array(boxes, dtype=np.int32),
        items=items,
        image_aspect_ratio=aspect,
        logprobs=top[:, 0].copy(),
        top_ids=np.arange(steps * 5).reshape(steps, 5),
        top_logprobs=top.copy(),
        top_tokens=[[f"t{step}.{place}" for place in range(5)] for step in range(steps)],
        gaze={"image": {"top_k": k}},
        model={"name": "runs/tiny", "weights": "sha256:" + "0" * 64},
        made_by="cambrian-gaze 0",
        missing={"scores": "not kept"},
    )


def with_weights(trace: Trace, seed: int = 0) -> Trace:
    """The trace with attention weights that a seed decides, as a model's would be: each head attends to what it chose,
    to context and to text, and its weights sum to 1."""
    draw, (steps, layers, heads, _) = np.random.default_rng(seed), trace.regions.shape
    region = np.concatenate([region_of_tokens(trace, item) for item in range(len(trace.items))])
    number = trace.regions
    seen = (number[..., :1] == ALL) | (number[..., None] == region).any(-2)
    logits = draw.normal(0, 1.5, (steps, layers, heads, trace.num_visual + 2))
    logits[..., :-2][~seen] = -np.inf
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    visual, other = weights[..., :-2], weights[..., -2:]
    inside = (visual[..., None, :] * (number[..., None] == region)).sum(-1)
    trace.region_mass = np.where(number == ALL, visual.sum(-1, keepdims=True), inside).astype(np.float16)
    trace.role_mass = np.concatenate([visual.sum(-1, keepdims=True), other], -1).mean(2).astype(np.float16)
    trace.attention = visual.mean(2).astype(np.float16)
    return trace


def region_of_tokens(trace: Trace, item: int) -> np.ndarray:
    """int64 [tokens of the item]: the region of each of its visual tokens."""
    number = np.zeros(trace.items[item].grid, dtype=np.int64)
    for region, (of, t0, t1, top, left, bottom, right) in enumerate(trace.boxes.tolist()):
        if of == item:
            number[t0:t1, top:bottom, left:right] = region
    return number.ravel()
