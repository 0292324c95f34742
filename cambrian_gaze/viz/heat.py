"""Attention weights as pictures: in 8 bits for the page, as a wash for figures."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from cambrian_gaze.data.media.aspect import Pixels
from cambrian_gaze.viz import canvas
from cambrian_gaze.viz.draw import MAX_ALPHA
from cambrian_gaze.viz.html import deflated
from cambrian_gaze.viz.trace_data import TraceData

MAX_HEAT = 1_800_000
"""Characters of a page that heat may take: what needs more is the layers' mean, or left out."""


_LEAST_PACKED = 16
"""Weights that packing may bring down to one character; more are not tried."""


def page_heat(trace: TraceData, room: int) -> dict[str, Any] | None:
    """What the page's script reads, of at most `room` characters and `MAX_HEAT`: the weights on visual tokens, of each
    layer, of their mean where those take too much, or none (None); `most`, the largest of each token and layer, and the
    rest as 255·√(weight / largest), so that small ones keep their order. Beside them the weight on visual, context and
    text entries by layer, and on what each head looked at, in 1/255."""
    if trace.attention is None or not trace.num_visual:
        return None
    by_layer = trace.attention.astype(np.float32)
    for weights in (by_layer, by_layer.mean(1, keepdims=True)) if by_layer.shape[1] > 1 else (by_layer,):
        if weights.size > _LEAST_PACKED * MAX_HEAT:
            continue
        most = weights.max(-1)
        cells = np.sqrt(weights / np.maximum(most, 1e-30)[..., None]) * 255
        packed = deflated(cells.round().astype(np.uint8))
        if len(packed) <= min(room, MAX_HEAT):
            inside = trace.region_mass.astype(np.float32).sum(-1)
            by_head = bool(inside.any())  # Under a policy nothing was chosen: a layer's mean stands for its heads.
            heads = inside if by_head else np.broadcast_to(trace.role_mass[..., :1], inside.shape)
            return {
                "layers": weights.shape[1],
                "cells": packed,
                "most": deflated(most.astype("<f4")),
                "roles": deflated(trace.role_mass.astype("<f4")),
                "heads": deflated((heads * 255).round().clip(0, 255).astype(np.uint8)),
                "by_head": by_head,
            }
    return None


def heat_told(trace: TraceData, packed: dict[str, Any] | None) -> str | None:
    """What a page says of the heat that it holds; None where it has all that the trace has, or there is none."""
    if trace.attention is None:
        return None
    if packed is None:
        return "none: it would make this page too large; the trace has it"
    if packed["layers"] == trace.regions.shape[1]:
        return "attention weights of each layer, in 8 bits"
    return "attention weights in 8 bits, mean over layers: those of each layer would make this page too large"


def heat_cells(trace: TraceData, heat: np.ndarray, unit: tuple[int, int]) -> list[tuple[Pixels, float]]:
    """(x0, y0, x1, y1) in the item's own pixels and opacity of the wash over each visual token of a picture or frame
    that was attended to at all: `MAX_ALPHA` for a heat of 1, falling with the square root."""
    return [
        (place, MAX_ALPHA * min(1.0, weight) ** 0.5)
        for place, weight in zip(trace.entry_pixels(unit[0]), heat[trace.entries(*unit)].tolist(), strict=True)
        if weight > 0 and place[2] > place[0] and place[3] > place[1]
    ]


def heat_wash(trace: TraceData, picture: Image.Image, heat: np.ndarray, unit: tuple[int, int]) -> Image.Image:
    """A picture of the unit, in any size, with its visual tokens washed by `heat_cells`."""
    own = trace.items[unit[0]].size
    alpha = Image.new("L", own, 0)
    draw = ImageDraw.Draw(alpha)
    for (x0, y0, x1, y1), opacity in heat_cells(trace, heat, unit):
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=round(255 * opacity))
    alpha = alpha.resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(Image.new("RGB", picture.size, canvas.GAZE), picture, alpha)
