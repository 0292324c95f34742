"""Fewer visual tokens before the decoder: pooled features, a smaller picture, fewer frames.

A token that is left out is hidden from every query, visual ones too, from the moment it comes: the same as never having
been there, but for positions, which keep their ids. Nothing here is trained; the compressing projectors
(`mm_projector_type`), which are, give four times fewer tokens with the decoder used to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from cambrian_gaze.attention.policy.policy import Shown, VisiblePolicy, VisualTokens
from cambrian_gaze.baselines.budget import at_least_one


@dataclass(frozen=True)
class _Pool2(VisiblePolicy):
    """Each block of 2×2 tokens becomes one, at the place of its last."""

    routes_on: ClassVar[bool] = True
    thins: ClassVar[bool] = True

    grid: tuple[int, int] | None = field(default=None, metadata={"option": False})
    """Rows and columns of visual tokens of an image or frame; `on_input` says it."""

    def on_input(self, model: Any, inputs: Mapping[str, Any]) -> VisiblePolicy:
        """Raises: ValueError for a grid with an odd side."""
        height, width = model.config.grid
        if height % 2 or width % 2:
            raise ValueError(f"policy {self.name!r} takes blocks of 2x2 tokens, and the grid is {height}x{width}")
        return dataclasses.replace(self, grid=(height, width))

    def pool(self, maps: Tensor) -> Tensor:
        """[N, D, h, w] → [N, D, h/2, w/2]."""
        raise NotImplementedError

    def on_features(self, features: Tensor) -> Tensor:
        changed = features.clone()
        changed[:, 1::2, 1::2] = self.pool(features.movedim(-1, 1)).movedim(1, -1)
        return changed

    def on_arrival(self, tokens: VisualTokens) -> Tensor:
        """Raises: ValueError where `on_input` was not called."""
        if self.grid is None:
            raise ValueError(f"policy {self.name!r} needs the grid: on_input was not called, as `generate` does")
        width, each = self.grid[1], self.grid[0] * self.grid[1]
        # A row's images and frames follow one another and all have this grid.
        place = F.pad(tokens.unit.new_ones(len(tokens.unit) - 1).cumsum(0), (1, 0)) % each
        last = (place // width % 2 == 1) & (place % width % 2 == 1)
        return last.expand_as(tokens.retained)

    def retains(self, shown: Shown, layer: int, layers: int) -> int:
        return shown.tokens // 4


@dataclass(frozen=True)
class AvgPool2(_Pool2):
    """The mean of each block of 2×2 projected features, as pooling between projector and decoder (the paper's
    compressed baselines name it). Departure: training-free; `mm_projector_type: avgpool2_mlp2x_gelu` trains with it."""

    name: ClassVar[str] = "avgpool2"

    def pool(self, maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps, 2)


@dataclass(frozen=True)
class MaxPool2(_Pool2):
    """The largest value of each feature in a block of 2×2. Departure: as `avgpool2`."""

    name: ClassVar[str] = "maxpool2"

    def pool(self, maps: Tensor) -> Tensor:
        return F.max_pool2d(maps, 2)


@dataclass(frozen=True)
class Downsample(AvgPool2):
    """The picture at half its resolution, in a quarter of the tokens. Departure: the tower has one resolution, so the
    small picture is enlarged again before it, and the 2×2 tokens that show what one would have shown become their
    mean."""

    name: ClassVar[str] = "downsample"

    def on_pixels(self, pixels: Tensor) -> Tensor:
        return F.interpolate(F.avg_pool2d(pixels, 2), size=pixels.shape[-2:], mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Subsample(VisiblePolicy):
    """Uniform frame subsampling: of a row's images and frames the first, and each `every`-th after it. Departure: the
    context tokens of the others stay (dense baselines have none)."""

    name: ClassVar[str] = "subsample"
    routes_on: ClassVar[bool] = True
    thins: ClassVar[bool] = True

    every: int = 2

    def __post_init__(self) -> None:
        at_least_one(self.name, every=self.every)

    def on_arrival(self, tokens: VisualTokens) -> Tensor:
        return (tokens.unit % self.every == 0).expand_as(tokens.retained)

    def retains(self, shown: Shown, layer: int, layers: int) -> int:
        return sum(shown.units[:: self.every])
