"""The embedded dataset `grid_classes`: which thing of a scene is the large one?

Scenes are those of `grid_scenes` in which one thing is large and all others are small; they are
drawn anew, so none of them is in `grid_scenes`. Importing this module registers the dataset.
"""

import random
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from limoe_tf import checks
from limoe_tf.data import grid_kinds, grid_scenes, grid_task

SPLITS = {"train": 10_000, "validation": 1_000, "test": 1_000}
# The class of a thing is colour * 4 + shape.
CLASS_NAMES = tuple(kind.name for kind in grid_kinds.PAIRS)
_LARGE = grid_kinds.Kind(size=grid_scenes.SIZES.index("large"))


class Example(NamedTuple):
    """One scene: <uint8>[64, 64, 3] image, class of its large thing, things by rising place."""

    image: np.ndarray
    label: int
    things: list[grid_scenes.Thing]


def render(split: str, index: int) -> Example:
    """Draws example `index` of a split; the same arguments always give the same example.

    Args:
      split: "train", "validation" or "test".
      index: place of the example in its split, from 0; classes take turns.

    Returns:
      Example of one large thing, of the class, and one to three small ones of any.

    Raises:
      ValueError: if there is no such split, or no such example in it.
      TypeError: if `index` is not an integer.
    """
    checks.one_of("split", split, tuple(SPLITS))
    index = checks.integer_in("index", index, 0, SPLITS[split] - 1)
    rng = random.Random(f"grid_classes/{split}/{index}")
    label = index % len(CLASS_NAMES)
    while True:
        things = grid_scenes.draw_things(rng)
        large = _LARGE.among(things)
        if len(large) == 1 and grid_kinds.PAIRS[label].includes(large[0]):
            return Example(grid_scenes.paint(things, rng), label, things)


class GridClasses(grid_task.GridTask):
    """Images of one large and one to three small objects; no download.

    Features: `image` <uint8>[64, 64, 3] and `label`, colour and shape of the large object, one of
    `CLASS_NAMES`.
    """

    RELEASE_NOTES: ClassVar = {"1.0.0": "24 classes: six colours, four shapes."}
    DESCRIPTION = (
        "Scenes of one large object and one to three small ones, labelled with colour and shape of "
        "the large one."
    )

    def features(self):
        return {
            "image": grid_task.image(),
            "label": tfds.features.ClassLabel(names=CLASS_NAMES),
        }

    def counts(self):
        return SPLITS  # Classes take turns: any part is balanced.

    def example(self, split, index):
        example = render(split, index)
        return {"image": example.image, "label": example.label}
