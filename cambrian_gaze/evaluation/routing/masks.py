"""Segmentation masks as the data has them → bool arrays, through `pycocotools`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cambrian_gaze.data.media.image_files import resolve_path
from cambrian_gaze.extras import require

if TYPE_CHECKING:
    import numpy as np


def read_mask(masks: Sequence[Any], size_wh: tuple[int, int], folder: str | Path) -> np.ndarray:
    """The union of a phrase's masks, bool [height, width] of its picture.

    Args:
        size_wh: of the picture.
        folder: what the paths of panoptic pictures start from.

    Raises: ValueError for masks of another size or form.
    """
    import numpy as np

    union = np.zeros(size_wh[::-1], dtype=bool)
    for mask in masks:
        found = _one(mask, size_wh, folder)
        if found.shape != union.shape:
            raise ValueError(
                f"a mask of {found.shape[1]}x{found.shape[0]} pixels for a picture of {size_wh[0]}x{size_wh[1]}"
            )
        union |= found
    return union


def _one(mask: Any, size_wh: tuple[int, int], folder: str | Path) -> np.ndarray:
    coco = require("pycocotools.mask", extra="routing")
    width, height = size_wh
    if isinstance(mask, list) and len(mask) >= 6 and len(mask) % 2 == 0:
        return coco.decode(coco.merge(coco.frPyObjects([mask], height, width))).astype(bool)
    if isinstance(mask, dict) and set(mask) == {"size", "counts"}:
        coded = coco.frPyObjects(mask, *mask["size"]) if isinstance(mask["counts"], list) else mask
        return coco.decode(coded).astype(bool)
    if isinstance(mask, dict) and set(mask) == {"panoptic", "ids"}:
        return _panoptic(resolve_path(mask["panoptic"], folder), mask["ids"])
    raise ValueError(
        'a mask is {"size", "counts"}, a polygon [x, y, …] of at least three points, or {"panoptic", "ids"}; got '
        f"{str(mask)[:80]}"
    )


def _panoptic(path: str, ids: Sequence[int]) -> np.ndarray:
    """COCO's panoptic pictures hold the id of each pixel's segment as R + 256 G + 256² B."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        colours = np.asarray(image.convert("RGB")).astype(np.int64)
    segments = colours @ np.array([1, 256, 65536])
    absent = [one for one in ids if not (segments == one).any()]
    if absent:
        raise ValueError(f"{path} has no segments {', '.join(map(str, absent))}")
    return np.isin(segments, list(ids))
