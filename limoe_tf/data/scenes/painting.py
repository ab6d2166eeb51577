"""Paints a scene: arithmetic of integers on tables, the same to the bit on every machine."""

import struct
import zlib

import numpy as np

from limoe_tf.data.scenes import patterns
from limoe_tf.data.scenes.lexicon import COLOURS, GROUNDS, TEXTURES
from limoe_tf.data.scenes.outlines import FULL_BITS, outline
from limoe_tf.data.scenes.patterns import IMAGE_SIZE
from limoe_tf.data.scenes.structure import Ground, Scene, Thing

# Noise is the same in squares of this many pixels a side: four values, so files stay small.
_GRAIN = 2
_ZLIB_LEVEL = 4
NOISE_BYTES = (IMAGE_SIZE // _GRAIN) ** 2
# By how much marks and shades darken a light background, or lighten a dark one, a level.
_GROUND_STEP = 4
_NAMES = tuple(texture.words[0] for texture in TEXTURES)


def _levels_of(value):
    """Returns a ground's colour by level, <int16>[levels, 3]: light ones darken, others lighten."""
    step = _GROUND_STEP if sum(value) < 3 * 128 else -_GROUND_STEP
    levels = np.arange(patterns.GROUND_STEPS + 1, dtype=np.int16)[:, None]
    return np.array(value, np.int16) + levels * np.int16(step)


_GROUND_COLOURS = tuple(_levels_of(ground.value) for ground in GROUNDS)
_BASES, _MARKS = (
    np.array([getattr(colour, part) for colour in COLOURS], np.int16) for part in ("value", "marks")
)


def paint(scene: Scene, noise: bytes) -> np.ndarray:
    """Paints a scene.

    Args:
      scene: Scene.
      noise: `NOISE_BYTES` random bytes, of which two bits each are used.

    Returns:
      <uint8>[64, 64, 3].
    """
    image = _ground(scene.ground)
    for thing in scene.things:
        _paint_thing(image, thing)
    # Shifts round down, as // does, and are much faster.
    image = image * np.int16(scene.brightness) >> 4
    if scene.noise:
        image += _grains(noise, scene.noise)
    return image.clip(0, 255, out=image).astype(np.uint8)


def encode_png(image: np.ndarray) -> bytes:
    """Encodes an image as PNG, quickly: every row is stored as it is, and repeats are found.

    Args:
      image: <uint8>[H, W, 3].
    """
    height, width, _ = image.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)  # The first byte of a row: no filter.
    rows[:, 1:] = image.reshape(height, -1)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), _ZLIB_LEVEL)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def _ground(ground: Ground):
    column, row, direction = ground.piece
    levels = patterns.ground_levels(ground.texture, ground.period, direction)
    levels = levels[row : row + IMAGE_SIZE, column : column + IMAGE_SIZE]
    return _GROUND_COLOURS[ground.colour].take(levels, axis=0)


def _paint_thing(image, thing: Thing):
    table = outline(thing.kind.shape, thing.radius, thing.turn)
    box = image[
        thing.y - thing.radius : thing.y + thing.radius + 1,
        thing.x - thing.radius : thing.x + thing.radius + 1,
    ]
    cover = table.rim if _NAMES[thing.kind.texture] == "hollow" else table.cover
    colour = _colours(thing, table)
    box += (colour - box) * cover[..., None] >> FULL_BITS


def _colours(thing, table):
    """Returns the colours of an object: <int16>[3], or <int16>[2 r + 1, 2 r + 1, 3]."""
    base, marked = _BASES[thing.kind.colour], _MARKS[thing.kind.colour]
    name, side = _NAMES[thing.kind.texture], 2 * thing.radius + 1
    if name in ("plain", "hollow"):
        return base
    if name == "bordered":
        return base + ((marked - base) * table.rim[..., None] >> FULL_BITS)
    column, row, direction = thing.piece
    if name == "shaded":
        shares = patterns.shades(thing.radius, direction)[..., None]
        return marked + ((base - marked) * shares >> FULL_BITS)
    if name == "checked":
        # Half of it are marks: pale ones, so that white on black is not black on white.
        marked = (base + marked) // 2
    period = patterns.PERIODS[thing.radius >= 11]
    marks = patterns.marks(thing.kind.texture, period, direction % patterns.NUM_DIRECTIONS)
    return np.where(marks[row : row + side, column : column + side, None], marked, base)


def _grains(noise, strength):
    steps = np.array([-3, -1, 1, 3], np.int16) * np.int16(strength) // np.int16(3)
    grains = steps[np.frombuffer(noise, np.uint8) & 3].reshape(IMAGE_SIZE // _GRAIN, -1)
    return grains.repeat(_GRAIN, axis=0).repeat(_GRAIN, axis=1)[..., None]
