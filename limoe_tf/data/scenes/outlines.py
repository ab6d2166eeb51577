"""The outlines of shapes as small tables: how much of each pixel an object covers.

Tables are made once for each shape, radius and turn, by counting which of 16 points of a pixel lie
inside. Drawing is then arithmetic of integers, the same to the bit on every machine.
"""

import functools
import math
from typing import NamedTuple

import numpy as np

from limoe_tf.data.scenes.lexicon import SHAPES

SAMPLES = 4  # Along each side of a pixel.
FULL_BITS = 4
FULL = 2**FULL_BITS  # Points of a pixel.
# Turns other than quarters, in degrees; a turn is 4 * (index of one of these) + quarters.
_SMALL_TURNS = (0, -16, -11, -6, 6, 11, 16)
NUM_TURNS = 4 * len(_SMALL_TURNS)
# A pixel counts as covered if as many of its points are.
_HALF = FULL // 2


class Outline(NamedTuple):
    """What an object covers, in a square around its centre.

    Attributes:
      cover: <int16>[2 r + 1, 2 r + 1] points of each pixel inside the shape, 0 to `FULL`.
      rim: <int16>[2 r + 1, 2 r + 1] those of them that are near the outline.
      solid: <bool>[2 r + 1, 2 r + 1] whether half of a pixel is covered or more.
    """

    cover: np.ndarray
    rim: np.ndarray
    solid: np.ndarray


@functools.cache
def outline(shape: int, radius: int, turn: int) -> Outline:
    """Returns the outline of a shape.

    Args:
      shape: index into `SHAPES`.
      radius: r, from the centre to the farthest point, in pixels.
      turn: 0 to `NUM_TURNS` - 1.
    """
    quarters = turn % 4
    if quarters:
        return Outline(*(np.rot90(table, quarters) for table in outline(shape, radius, turn & ~3)))
    inside = _points_inside(shape, radius, _SMALL_TURNS[turn // 4])
    core, width = inside, 1.25 if radius < 10 else 2.0
    for _ in range(round(width * SAMPLES)):
        core = _eroded(core)
    cover, rim = _count(inside), _count(inside & ~core)
    return Outline(cover, rim, cover >= _HALF)


def _points_inside(shape, radius, degrees):
    """Returns <bool>[n, n] for the points of all pixels of the square around the centre."""
    count = (2 * radius + 1) * SAMPLES
    # The shift keeps points off outlines that run along rows of points.
    axis = (np.arange(count) + 0.5 + 1 / 64) / SAMPLES - (radius + 0.5)
    y, x = np.meshgrid(axis / radius, axis / radius, indexing="ij")
    cosine, sine = (round(f(math.radians(degrees)), 6) for f in (math.cos, math.sin))
    return _INSIDE[SHAPES[shape].words[0]](x * cosine + y * sine, y * cosine - x * sine)


def _eroded(inside):
    padded = np.pad(inside, 1)
    return inside & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _count(points):
    side = len(points) // SAMPLES
    return points.reshape(side, SAMPLES, side, SAMPLES).sum(axis=(1, 3)).astype(np.int16)


def _polygon(*corners):
    """Returns a function that says which points lie inside a polygon, by crossings of its sides."""
    corners = np.round(corners, 4)

    def inside(x, y):
        crossed = np.zeros(x.shape, bool)
        for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0)):
            if y1 != y2:
                spans = (y1 > y) != (y2 > y)
                crossed ^= spans & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
        return crossed

    return inside


def _spokes(*radii, count, start=-90.0):
    """Returns corners around the centre: their distances, in turn, `count` times around."""
    total = count * len(radii)
    angles = (math.radians(start + 360 * i / total) for i in range(total))
    return [(radii[i % len(radii)] * math.cos(a), radii[i % len(radii)] * math.sin(a))
            for i, a in enumerate(angles)]  # fmt: skip


def _disc(x, y, centre_x, centre_y, radius):
    return (x - centre_x) ** 2 + (y - centre_y) ** 2 <= radius**2


def _crescent(x, y):
    return _disc(x, y, 0, 0, 0.97) & ~_disc(x, y, 0.5, 0, 0.8)


def _heart(x, y):
    lobes = _disc(x, y, -0.43, -0.3, 0.5) | _disc(x, y, 0.43, -0.3, 0.5)
    return lobes | _polygon((-0.83, 0.0), (0, -0.45), (0.83, 0.0), (0, 0.97))(x, y)


def _drop(x, y):
    return _disc(x, y, 0, 0.33, 0.62) | _polygon((-0.55, 0.06), (0, -0.99), (0.55, 0.06))(x, y)


def _flower(x, y):
    petals = [_disc(x, y, a, b, 0.34) for a, b in _spokes(0.65, count=5)]
    return functools.reduce(np.logical_or, petals, _disc(x, y, 0, 0, 0.34))


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return (np.minimum(x, y) <= 0.28) & (np.maximum(x, y) <= 0.94)


def _saltire(x, y):
    return _cross((x + y) * 0.707107, (x - y) * 0.707107)


_ARROW = (
    *((0, -0.97), (0.8, -0.05), (0.29, -0.05), (0.29, 0.94)),
    *((-0.29, 0.94), (-0.29, -0.05), (-0.8, -0.05)),
)
_HOUSE = (
    *((0, -0.97), (0.86, -0.12), (0.62, -0.12), (0.62, 0.76)),
    *((-0.62, 0.76), (-0.62, -0.12), (-0.86, -0.12)),
)
_HOURGLASS = (
    *((-0.66, -0.74), (0.66, -0.74), (0.1, 0)),
    *((0.66, 0.74), (-0.66, 0.74), (-0.1, 0)),
)
_BOLT = (
    *((0.36, -0.92), (-0.74, 0.22), (-0.12, 0.22)),
    *((-0.36, 0.92), (0.74, -0.26), (0.12, -0.26)),
)
_CROWN = (
    *((-0.82, 0.56), (-0.82, -0.5), (-0.4, 0.02), (0, -0.74)),
    *((0.4, 0.02), (0.82, -0.5), (0.82, 0.56)),
)
# Eight teeth, each of four corners.
_GEAR = tuple(
    (
        radius * math.cos(math.radians(45 * tooth + degrees)),
        radius * math.sin(math.radians(45 * tooth + degrees)),
    )
    for tooth in range(8)
    for degrees, radius in ((-13, 0.7), (-9, 0.98), (9, 0.98), (13, 0.7))
)
# In a circle of radius 1 around the centre; y points down.
_INSIDE = {
    "circle": lambda x, y: _disc(x, y, 0, 0, 0.94),
    "ring": lambda x, y: _disc(x, y, 0, 0, 0.98) & ~_disc(x, y, 0, 0, 0.52),
    "square": _polygon(*_spokes(1.0, count=4, start=-45)),
    "rectangle": _polygon((-0.93, -0.36), (0.93, -0.36), (0.93, 0.36), (-0.93, 0.36)),
    "triangle": _polygon(*_spokes(1.0, count=3)),
    "diamond": _polygon((0, -0.99), (0.64, 0), (0, 0.99), (-0.64, 0)),
    "pentagon": _polygon(*_spokes(1.0, count=5)),
    "star": _polygon(*_spokes(1.0, 0.44, count=5)),
    "sparkle": _polygon(*_spokes(1.0, 0.36, count=4)),
    "cross": _cross,
    "saltire": _saltire,
    "heart": _heart,
    "crescent": _crescent,
    "arrow": _polygon(*_ARROW),
    "ellipse": lambda x, y: (x / 0.97) ** 2 + (y / 0.62) ** 2 <= 1,
    "semicircle": lambda x, y: _disc(x, y, 0, 0.45, 0.96) & (y <= 0.42),
    "trapezoid": _polygon((-0.5, -0.56), (0.5, -0.56), (0.8, 0.56), (-0.8, 0.56)),
    "hourglass": _polygon(*_HOURGLASS),
    "drop": _drop,
    "flower": _flower,
    "gear": lambda x, y: _polygon(*_GEAR)(x, y) & ~_disc(x, y, 0, 0, 0.28),
    "house": _polygon(*_HOUSE),
    "bolt": _polygon(*_BOLT),
    "crown": _polygon(*_CROWN),
}
