"""Pictures of more than 8 bits per channel as 8 bits.

How many of 16 bits are in use no file says for sure: 12-bit cameras and scanners fill the lower bits of 16. Taken are
as many as the highest value needs, of 8, 10, 12, 14 and 16, so that such a picture is not nearly black.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image

_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}
"""How Pillow is told to take the lower byte of each value of 16 bits, where it takes the higher one by itself."""
_DARK = 64
"""Values of at most 14 bits have a higher byte below this."""


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Integers from 0 to 65535 as uint8, black to white being as many bits as the highest needs."""
    high = int(values.max())
    most = next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits)
    return (values.astype(np.uint32) * 255 // most).astype(np.uint8)


def faint_colours(image: Image.Image) -> Image.Image | None:
    """A picture whose colours have 10 to 14 bits in 16, of which Pillow gives the higher 8 only. Decodes `image`.

    None for all others, and for pictures that were decoded before.
    """
    stream, tiles = getattr(image, "fp", None), getattr(image, "tile", None)
    # Not so gray with alpha of 16 bits (PNG), of which Pillow gives the higher byte alone.
    if image.mode not in ("RGB", "RGBA") or not tiles or any(not _is_deep(tile) for tile in tiles):
        return None
    image.load()
    if stream is None or stream.closed or max(high for _, high in image.getextrema()[:3]) >= _DARK:
        return None
    stream.seek(0)
    with Image.open(stream, formats=(image.format,)) as lower:
        lower.tile = [tile._replace(args=_lower(tile)) for tile in lower.tile]
        values = np.asarray(image).astype(np.uint16) << 8 | np.asarray(lower)
    parts = [eight_bits(values[..., :3]), (values[..., 3:] >> 8).astype(np.uint8)]
    if parts[1].size and parts[1].max() < _DARK:  # alpha is as faint as the colours
        parts[1] = eight_bits(values[..., 3:])
    return Image.fromarray(np.concatenate(parts, axis=-1))


def _raw_mode(tile: Any) -> tuple[str, str]:
    """Such as ("RGB", "16B")."""
    mode, _, depth = str(tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0]).partition(";")
    return mode, depth


def _is_deep(tile: Any) -> bool:
    mode, depth = _raw_mode(tile)
    return mode in ("RGB", "RGBX", "RGBA") and depth in _OTHER_BYTE


def _lower(tile: Any) -> Any:
    mode, depth = _raw_mode(tile)
    raw = f"{mode};{_OTHER_BYTE[depth]}"
    return raw if isinstance(tile.args, str) else (raw, *tile.args[1:])
