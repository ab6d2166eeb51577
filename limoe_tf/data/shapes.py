"""The embedded dataset `captioned_shapes`: drawn scenes of coloured shapes, captions and labels.

Importing this module registers the dataset, so that
`tfds.load("captioned_shapes", split="train", data_dir=...)` finds, builds and reads it.
"""

import math
import random
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from limoe_tf import checks

IMAGE_SIZE = 64
SPLITS = {"train": 20_000, "validation": 2_000, "test": 2_000}


def _rgb(*values):
    return tuple(tuple(bytes.fromhex(value)) for value in values)


# No name begins with a vowel: "a {}" is correct for every class.
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple", "pink", "black")
COLOUR_VALUES = _rgb("d71e1e", "f6de1e", "23963c", "19c3d2", "2346d7", "782896", "f55faf", "19191c")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
# The index of a class is colour * len(SHAPES) + shape.
CLASS_NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
# Two diagonals of the table of colours and shapes: none of them loses more than two pairs.
UNSEEN_CLASSES = tuple(sorted(i % len(COLOURS) * len(SHAPES) + i % len(SHAPES) for i in range(10)))
SEEN_CLASSES = tuple(i for i in range(len(CLASS_NAMES)) if i not in UNSEEN_CLASSES)

_FRAMES = ("{}", "a picture of {}", "a drawing of {}")
TEMPLATES = tuple(frame.format("a {}") for frame in _FRAMES)

# From the centre to the farthest point, in pixels, of a single object and of one of two.
_RADII_ALONE = {"small": (10.0, 12.0), "large": (15.0, 18.0)}
RADII_OF_SEVERAL = {"small": (9.0, 11.0), "large": (13.0, 14.5)}
BACKGROUNDS = ("plain", "striped", "checked", "dotted", "speckled", "shaded")
_TINTS = _rgb("eeeeec", "d0d0ce", "f0e5ce", "d2e4d4", "ded6ea", "cedcec")
# Tips, distance of the inner corners (the tips' is 1), turn. With inner corners at cos(pi / tips)
# the sides are straight and the star is a regular polygon.
_STARS = {
    "triangle": (3, math.cos(math.pi / 3), 0.0),
    "square": (4, math.cos(math.pi / 4), math.pi / 4),
    "star": (5, 0.42, 0.0),
}
# Indexed by row, then by column.
_PLACES = (
    ("at the top left", "at the top", "at the top right"),
    ("on the left", "in the middle", "on the right"),
    ("at the bottom left", "at the bottom", "at the bottom right"),
)

_AXIS = np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5
_Y, _X = np.meshgrid(_AXIS, _AXIS, indexing="ij")


class Example(NamedTuple):
    """One scene: <uint8>[H, W, 3] image, captions, classes, and whether all are in "train"."""

    image: np.ndarray
    captions: list[str]
    labels: list[int]
    seen: bool


class Thing(NamedTuple):
    """One object of a scene.

    Attributes:
      label: its class, an index into `CLASS_NAMES`.
      size: "small" or "large".
      radius: from the centre to the farthest point, in pixels.
      centre: (x, y) in pixels.
    """

    label: int
    size: str
    radius: float
    centre: tuple


def render(split: str, index: int) -> Example:
    """Draws example `index` of a split; the same arguments always give the same example.

    Scenes of "train" have seen pairs only. In the other splits every second scene (odd indices)
    has unseen pairs only.

    Args:
      split: "train", "validation" or "test".
      index: place of the example in its split, from 0.

    Returns:
      Example of <uint8>[64, 64, 3] image, three captions, one label per object (indices into
      `CLASS_NAMES`), and whether the pairs of the scene occur in training.

    Raises:
      ValueError: if there is no such split, or no such example in it.
      TypeError: if `index` is not an integer.
    """
    checks.one_of("split", split, tuple(SPLITS))
    index = checks.integer_in("index", index, 0, SPLITS[split] - 1)
    # A string seeds `random.Random` through SHA-512: the same on every machine.
    rng = random.Random(f"{split}/{index}")
    seen = split == "train" or index % 2 == 0
    labels = rng.sample(SEEN_CLASSES if seen else UNSEEN_CLASSES, rng.choice((1, 1, 1, 2)))
    things, where = _place_one(labels, rng) if len(labels) == 1 else _place_two(labels, rng)
    background = rng.choice(BACKGROUNDS)
    captions = _captions(things, where, background, rng)
    return Example(paint(things, background, rng), captions, labels, seen)


def _place_one(labels, rng):
    """Returns one object near a point of a three by three grid, and the words for the point."""
    size, radius = _draw(_RADII_ALONE, rng)
    column, row = rng.randrange(3), rng.randrange(3)
    centre = [IMAGE_SIZE * (1 + cell) / 4 + rng.uniform(-3, 3) for cell in (column, row)]
    centre = [min(max(middle, radius + 1), IMAGE_SIZE - 1 - radius) for middle in centre]
    return [Thing(labels[0], size, radius, tuple(centre))], (_PLACES[row][column],)


def _place_two(labels, rng):
    """Returns two objects in neighbouring quarters, and the words for first-to-second and back."""
    level = rng.choice((0.25, 0.75))
    words = rng.choice((("left of", "right of"), ("above", "below")))
    things = []
    for label, half in zip(labels, (0.25, 0.75)):
        size, radius = _draw(RADII_OF_SEVERAL, rng)
        # No nearer than this to the quarter's edge: the two never touch.
        slack = min(3.0, IMAGE_SIZE / 4 - 0.75 - radius)
        x, y = (IMAGE_SIZE * share + rng.uniform(-slack, slack) for share in (half, level))
        things.append(Thing(label, size, radius, (x, y) if words[0] == "left of" else (y, x)))
    return things, words


def _draw(radii, rng):
    size = rng.choice(tuple(radii))
    return size, rng.uniform(*radii[size])


def _captions(things, where, background, rng):
    """Returns three captions: classes; with sizes and positions; with the background."""
    if rng.random() < 0.5:
        things, where = things[::-1], where[::-1]
    bare = [f"a {CLASS_NAMES[thing.label]}" for thing in things]
    sized = [f"a {thing.size} {CLASS_NAMES[thing.label]}" for thing in things]
    listed = rng.choice((bare, sized))[::-1]
    return [
        rng.choice(_FRAMES).format(" and ".join(bare)),
        " ".join((sized[0], where[0], *sized[1:])),
        f"{' and '.join(listed)} on a {background} background",
    ]


def paint(things: Sequence[Thing], background: str, rng: random.Random) -> np.ndarray:
    """Returns a scene as <uint8>[64, 64, 3]: two tones of one tint, and the objects on them.

    Args:
      things: Things.
      background: one of `BACKGROUNDS`.
      rng: decides the rest.
    """
    darker = rng.uniform(0.1, 0.17) * _texture(background, rng)
    image = np.array(rng.choice(_TINTS), np.float32) * (1 - darker[..., None])
    for thing in things:
        value = np.array(COLOUR_VALUES[thing.label // len(SHAPES)], np.float32)
        value += [rng.uniform(-8, 8) for _ in value]
        cover = _cover(SHAPES[thing.label % len(SHAPES)], thing, rng)[..., None]
        image = image * (1 - cover) + value * cover
    return np.rint(image).astype(np.uint8)


def _texture(kind, rng):
    """Returns how much darker each pixel is, <float32>[H, W] in 0..1 (for "shaded" in 0..2)."""
    if kind == "plain":
        return np.zeros_like(_X)
    if kind == "speckled":
        grains = np.frombuffer(rng.randbytes(IMAGE_SIZE**2 // 4), np.uint8)
        grains = (grains < 64).astype(np.float32).reshape(IMAGE_SIZE // 2, -1)
        return grains.repeat(2, axis=0).repeat(2, axis=1)
    x, y = _turn(_X, _Y, rng.uniform(0, 2 * math.pi))
    if kind == "shaded":
        return 2 * (x - x.min()) / np.ptp(x)
    period = rng.uniform(9, 14)
    # Distances to the middle of the nearest tile, in pixels.
    across, down = (np.abs((axis / period + rng.random()) % 1 - 0.5) * period for axis in (x, y))
    if kind == "dotted":
        return np.clip(0.28 * period + 0.5 - np.hypot(across, down), 0, 1)
    across, down = (np.clip(axis - period / 4 + 0.5, 0, 1) for axis in (across, down))
    return across if kind == "striped" else across + down - 2 * across * down


def _turn(x, y, angle):
    cosine, sine = math.cos(angle), math.sin(angle)
    return x * cosine + y * sine, y * cosine - x * sine


def _cover(shape, thing, rng):
    """Returns how much of each pixel an object covers, <float32>[H, W], from signed distances."""
    radius, (x, y) = thing.radius, thing.centre
    x, y = _turn(_X - x, _Y - y, rng.uniform(-0.2, 0.2))
    if shape == "circle":
        distance = np.hypot(x, y) - 0.92 * radius
    elif shape == "ring":
        distance = np.abs(np.hypot(x, y) - 0.76 * radius) - 0.22 * radius
    elif shape == "cross":
        x, y = np.abs(x), np.abs(y)
        distance = np.maximum(np.minimum(x, y) - 0.27 * radius, np.maximum(x, y) - 0.92 * radius)
    else:
        distance = _star_distance(x, y, radius, *_STARS[shape])
    return np.clip(0.5 - distance, 0, 1)


def _star_distance(x, y, radius, tips, waist, turn):
    """Returns the distance to the outline of a star, negative inside."""
    sector = math.pi / tips
    # Fold the plane into one half sector: from a tip (angle 0) to an inner corner (`sector`).
    angle = np.arctan2(x, -y) + np.float32(turn)
    angle = np.abs((angle + sector) % (2 * sector) - sector)
    reach = np.hypot(x, y)
    edge_x, edge_y = waist * math.cos(sector) - 1, waist * math.sin(sector)
    length = math.hypot(edge_x, edge_y)
    across = (reach * np.cos(angle) - radius) * (edge_y / length)
    return across - reach * np.sin(angle) * (edge_x / length)


class CaptionedShapes(tfds.core.GeneratorBasedBuilder):
    """Images of one or two coloured shapes with captions and labels, drawn without a download.

    Features: `image` <uint8>[64, 64, 3], `captions` (three texts), `labels` (one class of
    `CLASS_NAMES` per object) and `seen`, False where the colour-shape pairs never occur in "train".
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Eight colours, six shapes, six backgrounds."}

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Scenes of one or two coloured shapes with captions. "
            "A fifth of the colour-shape pairs never occurs in training.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(*_Y.shape, 3), encoding_format="png"),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                    "labels": tfds.features.Sequence(tfds.features.ClassLabel(names=CLASS_NAMES)),
                    "seen": np.bool_,
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded.
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        for index in range(SPLITS[split]):
            yield index, render(split, index)._asdict()


def groups() -> dict[str, tuple[int, ...]]:
    """Returns the labels that occur in training, and those that do not."""
    return {"seen": SEEN_CLASSES, "unseen": UNSEEN_CLASSES}
