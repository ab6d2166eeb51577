"""The embedded dataset `grid_questions`: questions on the scenes of `grid_scenes`, as in VQA.

All answers that a question has are equally frequent, so the question alone says little. Importing
this module registers the dataset.
"""

import random
from typing import ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from limoe_tf import checks
from limoe_tf.data import grid_kinds, grid_scenes, grid_task
from limoe_tf.data.grid_kinds import Kind
from limoe_tf.data.grid_scenes import PLACES, Thing

SPLITS = {"train": 20_000, "validation": 2_000, "test": 2_000}
KINDS = ("colour", "shape", "count", "exists", "place")
COUNTS = ("0", "1", "2", "3", "4")
ANSWERS = (*grid_scenes.COLOURS, *grid_scenes.SHAPES, *COUNTS, "yes", "no", *PLACES)


class Question(NamedTuple):
    """A question, its kind, what it asks about (a place or a kind of things), and its answers."""

    text: str
    kind: str
    about: int | Kind
    answers: tuple[str, ...]

    def answer(self, things: list[Thing]) -> str | None:
        """Returns the answer for a scene of these things, or None if it has none."""
        if self.kind in ("colour", "shape"):
            there = [thing for thing in things if thing.place == self.about]
            return self.answers[getattr(there[0], self.kind)] if there else None
        found = self.about.among(things)
        if self.kind == "count":
            return str(len(found))
        if self.kind == "exists":
            return "yes" if found else "no"
        return PLACES[found[0].place] if len(found) == 1 else None


def _questions():
    for place, name in enumerate(PLACES):
        yield Question(f"what colour is {name}", "colour", place, grid_scenes.COLOURS)
        yield Question(f"what shape is {name}", "shape", place, grid_scenes.SHAPES)
    yield Question("how many things", "count", Kind(), COUNTS[2:])
    # Three of a kind are too rare.
    for kind in (*grid_kinds.SIZES, *grid_kinds.COLOURS, *grid_kinds.SHAPES):
        yield Question(f"how many {kind.plural}", "count", kind, COUNTS[:3])
    for kind in (*grid_kinds.COLOURS, *grid_kinds.SHAPES, *grid_kinds.PAIRS):
        yield Question(f"is there a {kind.name}", "exists", kind, ("yes", "no"))
    for kind in (*grid_kinds.COLOURS, *grid_kinds.SHAPES):
        yield Question(f"where is the {kind.name}", "place", kind, PLACES)


QUESTIONS = tuple(_questions())


def answers() -> tuple[str, ...]:
    """Returns all answers that occur."""
    return ANSWERS


class Example(NamedTuple):
    """One question, its answer, and the number of its scene in the split of `grid_scenes`."""

    question: Question
    answer: str
    scene: int


def draw(split: str, index: int) -> Example:
    """Draws example `index` of a split; the same arguments always give the same example.

    Kinds are equally frequent, as are questions of a kind and answers of a question; the scene is
    any of the split for which the answer is right.

    Args:
      split: "train", "validation" or "test".
      index: place of the example in its split, from 0.

    Returns:
      Example, whose image is `grid_scenes.render(split, example.scene).image`.

    Raises:
      ValueError: if there is no such split, or no such example in it.
      TypeError: if `index` is not an integer.
    """
    checks.one_of("split", split, tuple(SPLITS))
    index = checks.integer_in("index", index, 0, SPLITS[split] - 1)
    rng = random.Random(f"grid_questions/{split}/{index}")
    kind = rng.choice(KINDS)
    question = rng.choice([one for one in QUESTIONS if one.kind == kind])
    answer = rng.choice(question.answers)
    scene = grid_scenes.find_scene(split, rng, lambda things: question.answer(things) == answer)
    return Example(question, answer, scene)


class GridQuestions(grid_task.GridTask):
    """Questions on scenes of `grid_scenes` with one answer each, of 21; no download.

    Features: `image` <uint8>[64, 64, 3], `question`, `answers` (one text), `answer_type` (one of
    `KINDS`), `question_id` (the number of the example in its split) and `scene` (that of the scene
    in the same split of `grid_scenes`).
    """

    RELEASE_NOTES: ClassVar = {"1.0.0": "65 questions of five kinds, 21 answers."}
    DESCRIPTION = (
        "Questions on colours, shapes, numbers and places in scenes of two to four objects. All "
        "answers of a question are equally frequent."
    )

    def features(self):
        return {
            "image": grid_task.image(),
            "question": tfds.features.Text(),
            "answers": tfds.features.Sequence(tfds.features.Text()),
            "answer_type": tfds.features.Text(),
            "question_id": np.int64,
            "scene": np.int64,
        }

    def counts(self):
        return SPLITS

    def example(self, split, index):
        question, answer, scene = draw(split, index)
        return {
            "image": grid_scenes.render(split, scene).image,
            "question": question.text,
            "answers": [answer],
            "answer_type": question.kind,
            "question_id": index,
            "scene": scene,
        }
