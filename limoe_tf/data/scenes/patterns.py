"""The patterns of objects and of backgrounds, as tables from which pieces are cut."""

import functools

import numpy as np

from limoe_tf.data.scenes.lexicon import GROUND_TEXTURES, TEXTURES

IMAGE_SIZE = 64
# The directions of stripes: along x, along y and along the diagonals.
NUM_DIRECTIONS = 4
# In pixels. Those of backgrounds are coarser than those of objects.
PERIODS = (5, 7)
GROUND_PERIODS = (10, 14)
# By these many steps a shaded background is darker at its end.
GROUND_STEPS = 8
# The share of its own colour at the ends of a shaded object, in sixteenths.
_MOST_SHADE, _LEAST_SHADE = 16, 6


@functools.cache
def marks(texture: int, period: int, direction: int) -> np.ndarray:
    """Returns where a texture of `TEXTURES` has marks, <bool>[128, 128]: any piece will do.

    Args:
      texture: index of "striped", "dotted", "checked" or "netted".
      period: pixels between neighbouring marks.
      direction: of stripes, 0 to `NUM_DIRECTIONS` - 1. The others are never diagonal: few of their
        marks would fit on a small object.
    """
    kind = TEXTURES[texture].words[0]
    return _marks(kind, period, direction if kind == "striped" else 0)


@functools.cache
def ground_levels(texture: int, period: int, direction: int) -> np.ndarray:
    """Returns how dark a background is, <int16>[128, 128] from 0 to `GROUND_STEPS`.

    Args:
      texture: index into `GROUND_TEXTURES`.
      period: pixels between neighbouring marks.
      direction: see `marks`; that of the darkest edge or corner of a shaded background, which is
        the piece at (0, 0).
    """
    kind = GROUND_TEXTURES[texture][0]
    if kind == "plain":
        return np.zeros((2 * IMAGE_SIZE, 2 * IMAGE_SIZE), np.int16)
    if kind == "shaded":
        slope = (_axes()[direction] % IMAGE_SIZE) * (GROUND_STEPS + 1) // IMAGE_SIZE
        return slope.astype(np.int16)
    return _marks(kind, period, direction).astype(np.int16) * (GROUND_STEPS // 2)


@functools.cache
def shades(radius: int, direction: int) -> np.ndarray:
    """Returns the shares of the base colour in a shaded object, in sixteenths, by pixel.

    Args:
      radius: r, of the object.
      direction: 0 to 7, an edge or a corner where it is darkest or lightest.

    Returns:
      <int16>[2 r + 1, 2 r + 1], 6 to 16.
    """
    side = 2 * radius + 1
    y, x = np.mgrid[:side, :side]
    along = (x + y) // 2 if direction & 1 else x
    shares = _MOST_SHADE - along * (_MOST_SHADE - _LEAST_SHADE) // (side - 1)
    return np.rot90(shares, direction // 2).astype(np.int16)


def _axes():
    y, x = np.mgrid[: 2 * IMAGE_SIZE, : 2 * IMAGE_SIZE]
    return x, y, (x + y) // 2, (x - y + 2 * IMAGE_SIZE) // 2


def _marks(kind, period, direction):
    """Returns marks, <bool>[128, 128]: half of "checked", less than half of the others."""
    x, y, rising, falling = _axes()
    if kind == "striped":
        # Across a diagonal, stripes of the same period in x are narrower.
        period += direction > 1
        return (x, y, x + y, x - y)[direction] % period < period * 2 // 5
    x, y = (rising, falling) if direction > 1 else (x, y)
    if kind == "checked":
        return (x // (period // 2 + 1) + y // (period // 2 + 1)) % 2 == 0
    across, down = x % period, y % period
    if kind == "dotted":
        return (across < period * 3 // 7) & (down < period * 3 // 7)
    return (across < period // 5) | (down < period // 5)
