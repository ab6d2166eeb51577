"""The embedded dataset `grid_scenes`: objects in quarters of an image, named with their places.

A caption tells colour, shape, size and place of all objects, drawn independently: without the image
a hidden colour is one of six, whatever else is read. So the loss on hidden colour words shows
whether a model looks at the image. Importing this module registers the dataset. It is not a
configuration of `captioned_shapes`: see `endless`.
"""

import random
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from limoe_tf import checks
from limoe_tf.data import shapes

COLOURS = shapes.COLOURS[:6]
# Those that differ most in a few patches.
SHAPES = ("square", "triangle", "cross", "ring")
SIZES = ("small", "large")
PLACES = ("top left", "top right", "bottom left", "bottom right")
# Scenes of "train", by configuration: a smaller set is the beginning of a larger one.
TRAIN_SCENES = {"40k": 40_000, "100k": 100_000, "1m": 1_000_000}
SPLITS = {"train": TRAIN_SCENES["1m"], "validation": 2_000, "test": 2_000}
NUM_CAPTIONS = 5
# Without patterns: shapes are to be learned in minutes.
_BACKGROUNDS = ("plain", "shaded")


class Thing(NamedTuple):
    """One object: indices into `PLACES`, `SIZES`, `COLOURS` and `SHAPES`."""

    place: int
    size: int
    colour: int
    shape: int


class Example(NamedTuple):
    """One scene: <uint8>[64, 64, 3] image, captions, and its things by rising place."""

    image: np.ndarray
    captions: list[str]
    things: list[Thing]


def render(split: str, index: int) -> Example:
    """Draws example `index` of a split; the same arguments always give the same example.

    Args:
      split: "train", "validation" or "test".
      index: place of the example in its split, from 0.

    Returns:
      Example of two to four things; its five captions name them in an order drawn for each.

    Raises:
      ValueError: if there is no such split, or no such example in it.
      TypeError: if `index` is not an integer.
    """
    rng = _rng(split, index)
    things = draw_things(rng)
    captions = [caption(rng.sample(things, len(things))) for _ in range(NUM_CAPTIONS)]
    return Example(paint(things, rng), captions, things)


def things_of(split: str, index: int) -> list[Thing]:
    """Returns the things of example `index` of a split, as `render` does, without painting them."""
    return draw_things(_rng(split, index))


def find_scene(split: str, rng: random.Random, suits: Callable[[list[Thing]], bool]) -> int:
    """Draws numbers of scenes of a split until the things of one suit; some scene must."""
    while True:
        index = rng.randrange(SPLITS[split])
        if suits(things_of(split, index)):
            return index


def draw_things(rng: random.Random) -> list[Thing]:
    """Draws two to four things, by rising place."""
    places = sorted(rng.sample(range(len(PLACES)), rng.randint(2, len(PLACES))))
    kinds = (SIZES, COLOURS, SHAPES)
    return [Thing(place, *(rng.randrange(len(kind)) for kind in kinds)) for place in places]


def paint(things: list[Thing], rng: random.Random) -> np.ndarray:
    """Returns a scene of these things as <uint8>[64, 64, 3]; `rng` decides all that is not told."""
    placed = [_placed(thing, rng) for thing in things]
    return shapes.paint(placed, rng.choice(_BACKGROUNDS), rng)


def caption(things: list[Thing]) -> str:
    """Returns the sentence that names things in this order, each with its place."""
    return " and ".join(
        f"a {SIZES[thing.size]} {COLOURS[thing.colour]} {SHAPES[thing.shape]} {PLACES[thing.place]}"
        for thing in things
    )


def _rng(split, index):
    checks.one_of("split", split, tuple(SPLITS))
    index = checks.integer_in("index", index, 0, SPLITS[split] - 1)
    # A string seeds `random.Random` through SHA-512: the same on every machine.
    return random.Random(f"grid/{split}/{index}")


def _placed(thing, rng):
    """Returns a `shapes.Thing` within its quarter of the image."""
    size = SIZES[thing.size]
    radius = rng.uniform(*shapes.RADII_OF_SEVERAL[size])
    quarter = shapes.IMAGE_SIZE / 4
    slack = min(3.0, quarter - 0.75 - radius)
    row, column = divmod(thing.place, 2)
    x, y = ((2 * cell + 1) * quarter + rng.uniform(-slack, slack) for cell in (column, row))
    shape = shapes.SHAPES.index(SHAPES[thing.shape])
    return shapes.Thing(thing.colour * len(shapes.SHAPES) + shape, size, radius, (x, y))


class GridScenes(tfds.core.GeneratorBasedBuilder):
    """Images of two to four objects, one in each quarter at most, with captions; no download.

    Features: `image` <uint8>[64, 64, 3], `captions` (five texts) and `things`, of which `place`,
    `size`, `colour` and `shape` are classes.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Six colours, four shapes, two sizes, four places."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name, description=f"{count:,} scenes to train on.")
        for name, count in TRAIN_SCENES.items()
    ]

    def _info(self):
        named = {"place": PLACES, "size": SIZES, "colour": COLOURS, "shape": SHAPES}
        classes = {key: tfds.features.ClassLabel(names=names) for key, names in named.items()}
        side = shapes.IMAGE_SIZE
        return tfds.core.DatasetInfo(
            builder=self,
            description="Scenes of two to four objects in the quarters of an image, whose captions "
            "tell size, colour, shape and place of each.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(side, side, 3), encoding_format="png"),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                    "things": tfds.features.Sequence(classes),
                }
            ),
            # Neighbouring scenes have nothing in common: they need not be shuffled.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing is downloaded.
        counts = {**SPLITS, "train": TRAIN_SCENES[self.builder_config.name]}
        return {split: self._generate_examples(split, count) for split, count in counts.items()}

    def _generate_examples(self, split, count):
        for index in range(count):
            example = render(split, index)
            things = [thing._asdict() for thing in example.things]
            yield index, {**example._asdict(), "things": things}
