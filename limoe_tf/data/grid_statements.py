"""The embedded dataset `grid_statements`: statements on two scenes of `grid_scenes`, as in NLVR2.

Each statement comes with four pairs of images, two of which make it true, so the statement alone
says nothing. Importing this module registers the dataset.
"""

import itertools
import random
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from limoe_tf import checks
from limoe_tf.data import grid_kinds, grid_scenes, grid_task
from limoe_tf.data.grid_scenes import PLACES, Thing

# Pairs; four of them share a statement.
SPLITS = {"train": 40_000, "validation": 2_000, "test": 2_000}
PAIRS_OF_A_STATEMENT = 4
KINDS = ("both", "one", "as many", "more", "same colour", "same shape")
LABELS = ("false", "true")


class Statement(NamedTuple):
    """What is said of a left and a right scene.

    Attributes:
      text: the sentence.
      kind: one of `KINDS`.
      value: function of the things of a scene, to what the statement asks of it.
      values: those that are shown.
      holds: function of the values of the left and the right scene.
    """

    text: str
    kind: str
    value: Callable[[list[Thing]], int | None]
    values: range
    holds: Callable[[int, int], bool]


def _number(kind):
    return lambda things: len(kind.among(things))


def _any(kind):
    return lambda things: bool(kind.among(things))


def _at(place, part):
    def value(things):
        return next((getattr(thing, part) for thing in things if thing.place == place), None)

    return value


def _statements():
    singles = (*grid_kinds.SIZES, *grid_kinds.COLOURS, *grid_kinds.SHAPES)
    for kind in (*singles, *grid_kinds.PAIRS):
        text = f"both images show a {kind.name}"
        yield Statement(text, "both", _any(kind), range(2), lambda left, right: left and right)
        text = f"only one image shows a {kind.name}"
        yield Statement(text, "one", _any(kind), range(2), lambda left, right: left != right)
    for kind in singles:
        text = f"both images show as many {kind.plural}"
        yield Statement(text, "as many", _number(kind), range(3), lambda left, right: left == right)
        text = f"more {kind.plural} are in the left image"
        yield Statement(text, "more", _number(kind), range(3), lambda left, right: left > right)
    for place, name in enumerate(PLACES):
        for part, names in (("colour", grid_scenes.COLOURS), ("shape", grid_scenes.SHAPES)):
            text = f"both images show the same {part} {name}"
            value, values = _at(place, part), range(len(names))
            yield Statement(text, f"same {part}", value, values, lambda left, right: left == right)


STATEMENTS = tuple(_statements())


class Example(NamedTuple):
    """A statement, whether it is true, its identifier, and numbers of scenes in `grid_scenes`."""

    statement: Statement
    label: bool
    identifier: str
    scene: int
    other_scene: int


def draw(split: str, index: int) -> Example:
    """Draws example `index` of a split; the same arguments always give the same example.

    Four examples in a row share a statement, and two of them are true. Identifiers are those of
    NLVR2: split, set, pair, statement of the set. Kinds are equally frequent, as are statements of
    a kind. What a statement asks of the two scenes is any pair of `values` of this label, so that
    for kinds of equal or unequal values one image tells nothing.

    Args:
      split: "train", "validation" or "test".
      index: place of the example in its split, from 0.

    Returns:
      Example, of scenes of the same split of `grid_scenes`; `scene` is the left one.

    Raises:
      ValueError: if there is no such split, or no such example in it.
      TypeError: if `index` is not an integer.
    """
    checks.one_of("split", split, tuple(SPLITS))
    index = checks.integer_in("index", index, 0, SPLITS[split] - 1)
    group, number = divmod(index, PAIRS_OF_A_STATEMENT)
    shared = random.Random(f"grid_statements/{split}/{group}")
    kind = shared.choice(KINDS)
    statement = shared.choice([one for one in STATEMENTS if one.kind == kind])
    label = shared.sample((False, False, True, True), PAIRS_OF_A_STATEMENT)[number]
    rng = random.Random(f"grid_statements/{split}/{group}/{number}")
    pairs = itertools.product(statement.values, repeat=2)
    wanted = rng.choice([pair for pair in pairs if bool(statement.holds(*pair)) == label])
    scenes = [_find(split, rng, statement, value) for value in wanted]
    return Example(statement, label, f"{split}-{group}-{number}-0", *scenes)


def _find(split, rng, statement, value):
    return grid_scenes.find_scene(split, rng, lambda things: statement.value(things) == value)


class GridStatements(grid_task.GridTask):
    """Statements on two scenes of `grid_scenes`, half of them true; no download.

    Features: `image` (the left one) and `other_image` <uint8>[64, 64, 3], `statement`, `label`
    (false or true), `kind` (a class of `KINDS`), `identifier` ("test-7-2-0" is the third pair of a
    statement), `scene` and `other_scene` (numbers in the same split of `grid_scenes`).
    """

    RELEASE_NOTES: ClassVar = {"1.0.0": "104 statements of six kinds."}
    DESCRIPTION = (
        "Statements on two scenes of two to four objects each, with pairs of scenes for which they "
        "are true and as many for which they are false."
    )

    def features(self):
        return {
            "image": grid_task.image(),
            "other_image": grid_task.image(),
            "statement": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=LABELS),
            "kind": tfds.features.ClassLabel(names=KINDS),
            "identifier": tfds.features.Text(),
            "scene": np.int64,
            "other_scene": np.int64,
        }

    def counts(self):
        return SPLITS

    def example(self, split, index):
        example = draw(split, index)
        return {
            "image": grid_scenes.render(split, example.scene).image,
            "other_image": grid_scenes.render(split, example.other_scene).image,
            "statement": example.statement.text,
            "label": LABELS[example.label],
            "kind": example.statement.kind,
            "identifier": example.identifier,
            "scene": example.scene,
            "other_scene": example.other_scene,
        }
