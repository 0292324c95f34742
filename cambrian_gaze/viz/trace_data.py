"""What a trace holds: one answer, where the model looked for each of its tokens, and the pictures; `trace.Trace` adds
files and the viewer. Shapes: T tokens, L layers, H query heads, K regions, R regions in all."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from cambrian_gaze.data.media.aspect import Pixels, region_pixels
from cambrian_gaze.viz.regions import RegionBox, region_share

NONE, ALL = -1, -2
"""In `TraceData.regions`: fewer than K were chosen; and, in the first place, every region was attended, so that nothing
was chosen (a dense layer, or a budget as large as the picture)."""
MAX_PNG = 8 << 20
"""A picture whose PNG is larger is kept as JPEG, and the trace says that it is not lossless."""


@dataclass(frozen=True)
class TraceItem:
    """An image or a video, as it was given to the model before padding or stretching."""

    kind: str
    """"image" or "video"."""

    grid: tuple[int, int, int]
    """Frames, rows and columns of visual tokens."""

    size: tuple[int, int]
    """Width and height in pixels, of every frame."""

    encoded: list[bytes]
    """PNG or JPEG, one for each frame."""

    source: str | None = None
    """The file or folder that it came from, as it was named."""

    sha256: str = ""
    """Of the RGB bytes of its frames in order, before they were encoded."""

    lossless: bool = True
    """Whether `encoded` holds these very pixels."""

    def picture(self, frame: int = 0) -> Image.Image:
        """One frame, RGB. Raises ValueError where its bytes are no picture of `size`."""
        try:
            with Image.open(io.BytesIO(self.encoded[frame]), formats=("PNG", "JPEG")) as image:
                if image.size == tuple(self.size):
                    return image.convert("RGB")
                reason = f"it is {image.width}x{image.height} pixels"
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            reason = str(error)
        raise ValueError(f"frame {frame} is no picture of {self.size[0]}x{self.size[1]} pixels: {reason}")


@dataclass
class TraceData:
    """One answer, its gaze and its pictures."""

    prompt: str
    tokens: list[str]
    """[T] texts of the new tokens; joined they are the answer. A token that ends within a character is empty, and the
    last of that character's has it."""

    token_ids: np.ndarray
    """int64 [T]."""

    special: np.ndarray
    """bool [T]: control tokens, which a reader of the answer does not see."""

    regions: np.ndarray
    """int32 [T, L, H, K]: chosen by the query that predicted the token; `NONE`, `ALL`."""

    attended: np.ndarray
    """int32 [T, L, H, 3]: visual, context and text entries that entered the softmax."""

    boxes: np.ndarray
    """int32 [R, 7]: (item, first frame, end frame, top, left, bottom, right) in visual tokens, ends exclusive."""

    items: list[TraceItem]

    image_aspect_ratio: str
    """How pictures became the model's square: see `data.aspect`."""

    logprobs: np.ndarray | None = None
    """float32 [T]: natural logarithm of the token's probability under the model's own distribution, before temperature
    and filters of sampling."""

    top_ids: np.ndarray | None = None
    """int64 [T, A]: the likeliest tokens, falling."""

    top_logprobs: np.ndarray | None = None
    """float32 [T, A]: theirs."""

    top_tokens: list[list[str]] = field(default_factory=list)
    """Texts [T, A] of `top_ids`, each decoded alone."""

    kept: np.ndarray | None = None
    """float32 [L, N]: share of the KV heads that still held each of the N visual tokens at the end, in the order of
    items, frames, rows, columns; None where nothing was evicted."""

    attention: np.ndarray | None = None
    """float16 [T, L, N], or [T, 1, N] where the layers alone would be too large: the softmax weight on each visual
    token, in the order of items, frames, rows, columns, mean over heads (and layers); None where it was not recorded.
    What a head did not attend to counts as 0."""

    region_mass: np.ndarray | None = None
    """float16 [T, L, H, K]: the softmax weight inside what stands at the same place of `regions`: a region, or all of
    them together (`ALL`); 0 for `NONE`."""

    role_mass: np.ndarray | None = None
    """float16 [T, L, 3]: the softmax weight on visual, context and text entries, mean over heads; they sum to 1."""

    steering: dict[str, list[int]] = field(default_factory=dict)
    """`hidden`: regions that no text query was allowed to see; `forced`: those that were left, where they were named
    instead of the others. Empty: every region could be chosen."""

    gaze: dict[str, Any] = field(default_factory=dict)
    """The `GazeConfig` of this answer."""

    model: dict[str, Any] = field(default_factory=dict)
    """`name` and `weights`, a digest as in the model's lineage; None where it is not known."""

    made_by: str = ""
    """Version of this package."""

    missing: dict[str, str] = field(default_factory=dict)
    """What a reader may look for and was not recorded → why."""

    @property
    def answer(self) -> str:
        """The text that a reader sees."""
        return "".join(text for text, hidden in zip(self.tokens, self.special, strict=True) if not hidden).strip()

    @cached_property
    def chose(self) -> np.ndarray:
        """bool [T, L, H]: heads that chose some of several regions."""
        return self.regions[..., 0] >= 0 if self.regions.shape[-1] else np.zeros(self.regions.shape[:3], dtype=bool)

    @cached_property
    def units(self) -> list[tuple[int, int]]:
        """(item, frame) of every picture, in order."""
        return [(number, frame) for number, item in enumerate(self.items) for frame in range(item.grid[0])]

    @cached_property
    def pixels(self) -> list[Pixels]:
        """Per region the pixels (x0, y0, x1, y1), ends exclusive, of its item's own picture that its tokens look at.
        Padding is cut off; a region of padding alone is empty. The viewer and `render` draw these."""
        places = []
        for box in (RegionBox(*row) for row in self.boxes.tolist()):
            item = self.items[box.item]
            x0, y0, x1, y1 = region_pixels(box[3:], item.grid[1:], item.size, self.image_aspect_ratio)
            width, height = item.size
            x0, x1 = (min(max(x, 0), width) for x in (x0, x1))
            y0, y1 = (min(max(y, 0), height) for y in (y0, y1))
            places.append((x0, y0, x1, y1) if x1 > x0 and y1 > y0 else (0, 0, 0, 0))
        return places

    @cached_property
    def num_visual(self) -> int:
        """N: visual tokens of all items."""
        return sum(frames * rows * columns for frames, rows, columns in (item.grid for item in self.items))

    def first_of(self, item: int, frame: int) -> int:
        """Place of a frame's first visual token among all N."""
        _, rows, columns = self.items[item].grid
        return sum(math.prod(other.grid) for other in self.items[:item]) + frame * rows * columns

    def entries(self, item: int, frame: int) -> slice:
        """Which of all N visual tokens are those of a picture or frame: rows by columns."""
        first, (_, rows, columns) = self.first_of(item, frame), self.items[item].grid
        return slice(first, first + rows * columns)

    def entry_pixels(self, item: int) -> list[Pixels]:
        """The pixels (x0, y0, x1, y1), ends exclusive, of each visual token of one of an item's pictures, in the order
        of `entries`, in the own picture and cut off at its edges; a token of padding alone is empty."""
        xs, ys = self.edges(item)
        return [(x0, y0, x1, y1) for y0, y1 in pairwise(ys) for x0, x1 in pairwise(xs)]

    def edges(self, item: int) -> tuple[list[int], list[int]]:
        """Where the visual tokens of an item meet in its own picture: pixels of columns + 1 and rows + 1 edges, cut off
        at the picture's."""
        (_, rows, columns), (width, height) = self.items[item].grid, self.items[item].size

        def cut(edge: int, end: int) -> int:
            return min(max(edge, 0), end)

        def place(row: int, column: int) -> Pixels:
            box = (row, column, row + 1, column + 1)
            return region_pixels(box, (rows, columns), (width, height), self.image_aspect_ratio)

        across = [place(0, column) for column in range(columns)]
        down = [place(row, 0) for row in range(rows)]
        xs = [across[0][0], *(pixels[2] for pixels in across)]
        ys = [down[0][1], *(pixels[3] for pixels in down)]
        return [cut(x, width) for x in xs], [cut(y, height) for y in ys]

    def regions_of(self, item: int, frame: int) -> list[int]:
        """Numbers of the regions that lie in a frame."""
        boxes = self.boxes
        inside = (boxes[:, 0] == item) & (boxes[:, 1] <= frame) & (frame < boxes[:, 2])
        return np.flatnonzero(inside).tolist()

    def share(self, token: int, layers: Sequence[int] | None = None, heads: Sequence[int] | None = None) -> np.ndarray:
        """float64 [R]: share of the heads that chose each region for a token, of all that chose, or of these layers
        and heads. Raises ValueError for a token, layer or head that there is not."""
        self._check_places(token, layers, heads)
        chosen = self.regions[token]
        chosen = chosen if layers is None else chosen[list(layers)]
        chosen = chosen if heads is None else chosen[:, list(heads)]
        return region_share(chosen, len(self.boxes))

    def heat(self, token: int, layers: Sequence[int] | None = None) -> np.ndarray | None:
        """float64 [N]: softmax weight on each visual token, in the order of items, frames, rows, columns, mean over all
        heads of all layers, or of these. Not normalised: the sum is the weight on the pictures, the rest lay on text
        and context. None where the trace has none (`missing["attention"]` says why), and of single layers where it has
        their mean alone. Raises ValueError for a token or layer that there is not."""
        self._check_places(token, layers)
        if self.attention is None:
            return None
        by_layer = self.attention[token].astype(np.float64)
        if layers is not None:
            if len(by_layer) != self.regions.shape[1]:
                return None
            by_layer = by_layer[list(layers)]
        return by_layer.mean(0) if len(by_layer) else np.zeros(self.num_visual)

    def mass(self, token: int, layer: int, head: int) -> np.ndarray | None:
        """float64 [K]: softmax weight inside each of the regions `regions[token, layer, head]`. None where the trace
        has none. Raises ValueError for a token, layer or head that there is not."""
        self._check_places(token, [layer], [head])
        return None if self.region_mass is None else self.region_mass[token, layer, head].astype(np.float64)

    def _check_places(self, token: int, layers: Sequence[int] | None, heads: Sequence[int] | None = None) -> None:
        steps, depth, width, _ = self.regions.shape
        for name, numbers, end in (("token", [token], steps), ("layer", layers, depth), ("head", heads, width)):
            if wrong := [n for n in numbers or () if not 0 <= n < end]:
                raise ValueError(f"{name} {wrong[0]}: the trace has {name}s 0 to {end - 1}")


def encode_picture(image: Image.Image, largest: int = MAX_PNG, quality: int = 95) -> tuple[bytes, bool]:
    """The bytes of a picture, and whether they are lossless: PNG if it has at most `largest` bytes, else JPEG."""
    buffer = io.BytesIO()
    if largest:
        image.save(buffer, format="PNG")
        if buffer.tell() <= largest:
            return buffer.getvalue(), True
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue(), False
