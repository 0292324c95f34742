"""From the tower's features to the decoder's width, with or without four times fewer tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cambrian_gaze.models.configuration import CambrianGazeConfig


class GridConvolution(nn.Conv2d):
    """3×3, stride 2, padding 1, with a bias; starts as the mean of the 2×2 block that it replaces."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, kernel_size=3, stride=2, padding=1)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Average pooling."""
        self.weight.zero_()
        channel = torch.arange(self.weight.shape[0], device=self.weight.device)
        self.weight[channel, channel, 1:, 1:] = 0.25
        self.bias.zero_()


class Projector(nn.Sequential):
    """Linear, GELU, Linear (keys "0" and "2", as upstream), around an optional 2× reduction of the grid.

    The paper names the 3×3 convolution and leaves the rest open: here no norm and no activation of its own.
    """

    def __init__(self, config: CambrianGazeConfig) -> None:
        vision, text = config.vision_config.hidden_size, config.text_config.hidden_size
        super().__init__(nn.Linear(vision, text), nn.GELU(), nn.Linear(text, text))
        self.reduction = config.mm_projector_type.removesuffix("mlp2x_gelu").rstrip("_")
        self.first = config.mm_conv_position == "before_mlp"
        self.conv = None
        if self.reduction == "conv3x3":
            width = vision if self.first else text
            self.conv = GridConvolution(width)

    def forward(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """[N, h·w, vision width] → [N, h'·w', decoder width], h' = ceil(h / 2) where the grid is reduced."""
        if self.reduction and self.first:
            features = self._reduce(features, grid)
        features = self[2](self[1](self[0](features)))
        if self.reduction and not self.first:
            features = self._reduce(features, grid)
        return features

    def _reduce(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        maps = features.transpose(1, 2).unflatten(2, grid)
        if self.conv is not None:
            maps = self.conv(maps)
        elif self.reduction == "avgpool2":
            maps = F.avg_pool2d(maps, 2, ceil_mode=True, count_include_pad=False)
        else:
            maps = F.max_pool2d(maps, 2, ceil_mode=True)
        return maps.flatten(2).transpose(1, 2)
