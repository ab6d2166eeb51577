"""The embedded dataset `grid_sentences`: does one sentence on a scene follow from another?

As in MNLI there is a premise, which tells a part of a scene of `grid_scenes`, and a hypothesis, on
one of its places. What the premise does not tell is unknown. Each hypothesis has all three labels
equally often. Importing this module registers the dataset.
"""

import random
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from limoe_tf import checks
from limoe_tf.data import grid_kinds, grid_scenes, grid_task
from limoe_tf.data.grid_kinds import Kind
from limoe_tf.data.grid_scenes import COLOURS, PLACES, SIZES

SPLITS = {"train": 100_000, "validation": 2_000, "test": 2_000}
LABELS = ("entailment", "neutral", "contradiction")


class Claim(NamedTuple):
    """A thing of a kind at a place, an index into `PLACES`."""

    place: int
    kind: Kind

    @property
    def text(self) -> str:
        """Its words, as in a caption."""
        return f"a {self.kind.name} {PLACES[self.place]}"


HYPOTHESES = tuple(
    Claim(place, kind)
    for place in range(len(PLACES))
    for shape in grid_kinds.SHAPES
    for kind in (
        shape,
        *(shape._replace(size=size) for size in range(len(SIZES))),
        *(shape._replace(colour=colour) for colour in range(len(COLOURS))),
    )
)


class Example(NamedTuple):
    """Claims of the premise, the hypothesis, its label, and the scene's number in `grid_scenes`."""

    told: tuple[Claim, ...]
    hypothesis: Claim
    label: str
    scene: int

    @property
    def premise(self) -> str:
        """The sentence of the claims."""
        return " and ".join(claim.text for claim in self.told)


def judge(told: tuple[Claim, ...], hypothesis: Claim) -> str:
    """Returns the label of a hypothesis, given claims of which none are of the same place."""
    there = next((claim.kind for claim in told if claim.place == hypothesis.place), Kind())
    asked = [(known, part) for known, part in zip(there, hypothesis.kind) if part is not None]
    if any(known not in (None, part) for known, part in asked):
        return "contradiction"
    return "entailment" if all(known == part for known, part in asked) else "neutral"


def draw(split: str, index: int) -> Example:
    """Draws example `index` of a split; the same arguments always give the same example.

    Hypotheses are equally frequent, as are the labels of a hypothesis. The scene and what is told
    of it are then drawn until the label is right. Two or three things are told, each with its shape
    and place; size and colour are left out half the time. What is unknown is a place in one half,
    size or colour of a thing that is told in the other.

    Args:
      split: "train", "validation" or "test".
      index: place of the example in its split, from 0.

    Returns:
      Example.

    Raises:
      ValueError: if there is no such split, or no such example in it.
      TypeError: if `index` is not an integer.
    """
    checks.one_of("split", split, tuple(SPLITS))
    index = checks.integer_in("index", index, 0, SPLITS[split] - 1)
    rng = random.Random(f"grid_sentences/{split}/{index}")
    hypothesis, label = rng.choice(HYPOTHESES), rng.choice(LABELS)
    # Of a place that is told the shape is known: only more than the shape can be unknown.
    more = hypothesis.kind != Kind(shape=hypothesis.kind.shape)
    place_is_told = label != "neutral" or (more and rng.random() < 0.5)
    while True:
        scene = rng.randrange(grid_scenes.SPLITS[split])
        told = _tell(grid_scenes.things_of(split, scene), rng)
        if any(claim.place == hypothesis.place for claim in told) != place_is_told:
            continue
        if judge(told, hypothesis) == label:
            return Example(told, hypothesis, label, scene)


def _tell(things, rng):
    """Returns claims that tell a part of a scene, in any order."""
    some = rng.sample(things, min(rng.randint(2, 3), len(things)))
    return tuple(
        Claim(
            thing.place, Kind(_or_none(thing.size, rng), _or_none(thing.colour, rng), thing.shape)
        )
        for thing in some
    )


def _or_none(part, rng):
    return part if rng.random() < 0.5 else None


class GridSentences(grid_task.GridTask):
    """Premises and hypotheses on scenes of `grid_scenes`, without images; no download.

    Features: `premise`, `hypothesis`, `label` (a class of `LABELS`) and `scene` (the number of the
    premise's scene in the same split of `grid_scenes`).
    """

    RELEASE_NOTES: ClassVar = {"1.0.0": "144 hypotheses, three labels."}
    DESCRIPTION = (
        "Sentences that tell a part of a scene, with a sentence on one of its places that follows "
        "from them, contradicts them, or is unknown."
    )

    def features(self):
        return {
            "premise": tfds.features.Text(),
            "hypothesis": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=LABELS),
            "scene": np.int64,
        }

    def counts(self):
        return SPLITS

    def example(self, split, index):
        example = draw(split, index)
        return {
            "premise": example.premise,
            "hypothesis": example.hypothesis.text,
            "label": example.label,
            "scene": example.scene,
        }
