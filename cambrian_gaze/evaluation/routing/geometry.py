"""How much of a mask lies in each region. Exact: areas, not pixels whose centre happens to fall inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cambrian_gaze.data.media.aspect import check_aspect

if TYPE_CHECKING:
    import numpy as np

Box = Sequence[int]
"""(item, frame0, frame1, top, left, bottom, right) in tokens of the grid, ends exclusive."""


def shown(size_wh: tuple[int, int], aspect: str = "pad") -> tuple[float, float, float, float]:
    """What the token grid spans, (x0, y0, x1, y1) in pixels of the picture: under "square" (stretched) the picture,
    under "pad" the square that it stands in the middle of, which reaches beyond it on two sides."""
    width, height = size_wh
    if check_aspect(aspect) == "square":
        return 0.0, 0.0, float(width), float(height)
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2  # as `pad_to_square` places it
    return float(-left), float(-top), float(side - left), float(side - top)


def covered(mask: np.ndarray, boxes: Sequence[Box], grid_hw: tuple[int, int], aspect: str = "pad") -> np.ndarray:
    """Pixels of a mask, bool [height, width], inside each region: float64 [regions], fractions of pixels included."""
    import numpy as np

    height, width = mask.shape
    x0, y0, x1, y1 = shown((width, height), aspect)
    rows, columns = grid_hw
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = mask.cumsum(0).cumsum(1)
    table = np.array(boxes, dtype=np.float64).reshape(-1, 7)
    top, bottom = (y0 + table[:, n] * (y1 - y0) / rows for n in (3, 5))
    left, right = (x0 + table[:, n] * (x1 - x0) / columns for n in (4, 6))
    corner = _integral(sums)
    return corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left)


def _integral(sums: np.ndarray):
    """Area of the mask above y and left of x: between pixel corners the table of sums is bilinear, exactly."""
    import numpy as np

    def at(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        y, x = np.clip(y, 0, sums.shape[0] - 1), np.clip(x, 0, sums.shape[1] - 1)
        low_y = np.minimum(np.floor(y).astype(int), sums.shape[0] - 2)
        low_x = np.minimum(np.floor(x).astype(int), sums.shape[1] - 2)
        dy, dx = y - low_y, x - low_x
        upper = sums[low_y, low_x] * (1 - dx) + sums[low_y, low_x + 1] * dx
        lower = sums[low_y + 1, low_x] * (1 - dx) + sums[low_y + 1, low_x + 1] * dx
        return upper * (1 - dy) + lower * dy

    return at
