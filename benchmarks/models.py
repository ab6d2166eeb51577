"""The models that are compared: one tower with experts, and the same tower without."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import Limoe
from limoe_tf.model import sizes
from limoe_tf.train.optimizer import Adafactor

DENSE, SPARSE = KINDS = ("dense", "sparse")


class Case(NamedTuple):
    """A model and its batch size.

    Attributes:
      name: of the model.
      values: constructor arguments of `Limoe`.
      batch_size: B.
    """

    name: str
    values: dict
    batch_size: int

    @property
    def tokens(self) -> int:
        """Number of tokens of a batch."""
        patches = (self.values["image_size"] // self.values["patch_size"]) ** 2
        return self.batch_size * (patches + self.values["text_length"])


def of_size(name: str, batch_size: int, *, num_experts: int, vocabulary_size: int) -> Case:
    """Returns a Case of a named architecture."""
    others = {"num_experts": num_experts, "vocabulary_size": vocabulary_size, "text_length": 16}
    return Case(name, {**sizes.constructor_values(name), **others}, batch_size)


TINY = of_size("tiny", 128, num_experts=8, vocabulary_size=256)
S16 = of_size("S/16", 40, num_experts=32, vocabulary_size=32_000)


def build(case: Case, kind: str) -> Limoe:
    """Returns the model of a Case; `kind` is one of `KINDS`."""
    values = dict(case.values)
    if kind == DENSE:
        values["plan"] = ("dense",) * values["depth"]
    keras.utils.set_random_seed(0)
    return Limoe(**values)


def compiled(case: Case, kind: str) -> Limoe:
    """As `build`, compiled as the training job does, with this package's optimizer."""
    model = build(case, kind)
    optimizer = Adafactor(1e-3, weight_decay=1e-4, global_clipnorm=1.0)
    model.compile(optimizer, detailed_logs=True)
    return model


def random_images(count: int, side: int) -> tf.Tensor:
    """Returns <uint8>[count, side, side, 3]."""
    return tf.constant(np.random.default_rng(0).integers(256, size=[count, side, side, 3]), "uint8")


def random_batch(model: Limoe, size: int) -> dict[str, tf.Tensor]:
    """Returns pairs of an image and a text without padding."""
    text = [size, model.text_length]
    words = np.random.default_rng(1).integers(model.vocabulary_size, size=text)
    return {
        "image": random_images(size, model.image_size),
        "text": tf.constant(words, tf.int32),
        "text_valid": tf.ones(text, tf.bool),
    }
