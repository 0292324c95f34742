"""Where the visual tokens of a model family lie: one function per family, from what its pictures are encoded from.

A picture is a list of pieces in the order of its tokens: a grid (frames, rows, columns), or None for one token that
stands on no grid (a newline at the end). Such a token is ordinary text that does not route.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from cambrian_gaze.gaze.layout import IMAGE, VIDEO
from cambrian_gaze.gaze.token_types import VISUAL_TYPES

Grid = tuple[int, int, int]
Picture = list[Grid | None]
KINDS = {kind: name for name, kind in VISUAL_TYPES.items()}


class Visuals(NamedTuple):
    """The visual tokens of one forward call, [B, S]."""

    types: Tensor
    """int64 [B, S]: 0 text, 1 image, 2 video."""
    grids: list[Grid]
    """(frames, rows, columns) in order of appearance over the batch."""
    off_grid: Tensor
    """bool [B, S]: tokens of a picture that stand on no grid."""


def visuals_of(config: PreTrainedConfig, ids: Tensor, pictures: Mapping[int, Sequence[Picture]] | None) -> Visuals:
    """The visual tokens among `ids` [B, S].

    Args:
        pictures: per modality those encoded last, in order of appearance. `generate` encodes them once and then
            repeats every row, for beams: so rows may be a multiple of what the pictures account for. None: all tokens
            are text.

    Raises: ValueError where placeholders and pictures disagree, with the counts.
    """
    types = torch.zeros_like(ids)
    types = types.masked_fill(ids == config.image_token_id, IMAGE).masked_fill(ids == config.video_token_id, VIDEO)
    off_grid = torch.zeros_like(types, dtype=torch.bool)
    if pictures is None or not types.any():
        return Visuals(torch.zeros_like(types), [], off_grid)
    rows = [row[row > 0].tolist() for row in types.cpu()]
    repeats = _repeats(rows, pictures)
    grids: list[Grid] = []
    turn = dict.fromkeys(KINDS, 0)
    for number in range(0, len(rows), repeats):
        shown, newlines = _walk(rows[number], pictures, turn)
        for row in range(number, number + repeats):
            if rows[row] != rows[number]:
                raise ValueError(f"rows {number} and {row} were to repeat each other, but differ in their pictures")
            places = types[row].nonzero().flatten()
            off_grid[row, places[torch.tensor(newlines, dtype=torch.int64, device=places.device)]] = True
            grids += shown
    return Visuals(types.masked_fill(off_grid, 0), grids, off_grid)


def _repeats(rows: list[list[int]], pictures: Mapping[int, Sequence[Picture]]) -> int:
    """How often each row stands in the batch."""
    found = set()
    for kind, name in KINDS.items():
        have = sum(row.count(kind) for row in rows)
        need = sum(_tokens(piece) for picture in pictures.get(kind, ()) for piece in picture)
        if have and (not need or have % need or len(rows) % (have // need)):
            count = len(pictures.get(kind, ()))
            raise ValueError(
                f"input_ids hold {have} {name} placeholders, but the {count} {name}s encoded last have {need} tokens; "
                "pass everything that the processor returns"
            )
        if have:
            found.add(have // need)
    if len(found) > 1:
        raise ValueError("input_ids repeat their images and their videos a different number of times")
    return found.pop()


def _walk(
    kinds: list[int], pictures: Mapping[int, Sequence[Picture]], turn: dict[int, int]
) -> tuple[list[Grid], list[int]]:
    """Grids of one row, and which of its visual tokens stand on none; `turn` counts the pictures used."""
    grids: list[Grid] = []
    newlines: list[int] = []
    at = 0
    while at < len(kinds):
        kind = kinds[at]
        picture = pictures[kind][turn[kind]]
        turn[kind] += 1
        for piece in picture:
            length = _tokens(piece)
            if kinds[at : at + length] != [kind] * length:
                found = kinds[at : at + length].count(kind)
                raise ValueError(
                    f"an {KINDS[kind]} with the pieces {picture} finds {found} of the {length} placeholders that "
                    f"{piece} needs; it must lie in one row and come in one forward call"
                )
            if piece is None:
                newlines.append(at)
            else:
                grids.append(piece)
            at += length
    return grids, newlines


def _tokens(piece: Grid | None) -> int:
    return 1 if piece is None else math.prod(piece)


def _qwen_vl(config: PreTrainedConfig, kind: int, inputs: Mapping[str, Any]) -> list[Picture]:
    """Qwen2-VL and Qwen2.5-VL: one run of tokens per picture, its grid given before the 2×2 merger."""
    merge = config.vision_config.spatial_merge_size
    grids = inputs["image_grid_thw" if kind == IMAGE else "video_grid_thw"]
    return [[(t, h // merge, w // merge)] for t, h, w in grids.tolist()]


def _llava_onevision(config: PreTrainedConfig, kind: int, inputs: Mapping[str, Any]) -> list[Picture]:
    """LLaVA-OneVision: an overview, then the tiles as one grid whose last column is the newline of each row. A picture
    among several of a sample, and every video, is one grid and a newline."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    if kind == VIDEO:
        pixels = next(iter(inputs.values()))  # its name is not the same in every transformers of our range
        rows, frames = pixels.shape[:2]
        pooled = math.ceil(side / 2)
        return [[(frames, pooled, pooled), None] for _ in range(rows)]
    sizes, counts = inputs["image_sizes"].tolist(), inputs.get("batch_num_images")
    tiled = [True] * len(sizes) if counts is None else [n == 1 for n in counts.tolist() for _ in range(n)]
    return [
        [(1, side, side), _tiles(config, size, side) if tiles else None]
        for size, tiles in zip(sizes, tiled, strict=True)
    ]


def _tiles(config: PreTrainedConfig, size: list[int], side: int) -> Grid:
    """Rows and columns of the tiles of a picture of `size` (H, W), padding cut off, newlines included."""
    from transformers.models.llava_onevision import modeling_llava_onevision as theirs

    tile = config.vision_config.image_size
    rows, columns = theirs.get_anyres_image_grid_shape(size, config.image_grid_pinpoints, tile)
    whole = torch.empty(1, rows * side, columns * side, device="meta")
    height, width = theirs.unpad_image(whole, size).shape[1:]
    most = int(config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(height * width / (most * side**2))
    if ratio > 1.1:
        height, width = int(height // ratio), int(width // ratio)
    return 1, height, width + 1


FAMILIES: dict[str, Callable[[PreTrainedConfig, int, Mapping[str, Any]], list[Picture]]] = {
    "llava_onevision": _llava_onevision,
    "qwen2_vl": _qwen_vl,
    "qwen2_5_vl": _qwen_vl,
}
"""By `config.model_type`: (configuration, IMAGE or VIDEO, arguments of `get_image_features` or `get_video_features`) to
the pictures in order."""
