"""Few-shot classification: a ridge regression on frozen features of a few images of each class."""

import math
import types
from collections.abc import Sequence
from typing import Any

import numpy as np

from limoe_tf import checks
from limoe_tf.data import images
from limoe_tf.data.records import Source
from limoe_tf.data.words import Vocabulary
from limoe_tf.evaluate import look, ridge
from limoe_tf.evaluate.embed import embed_source, feature_encoder


class FewShot:
    """Classification by a ridge regression on a few labelled images of each class.

    Each image must have one label: multi-label sets are not supported.

    Args:
      train_source: a source with labels, from which shots are drawn.
      test_source: a source with labels.
      shots: the numbers of images of each class.
      num_seeds: number of random draws of shots.
      layer: "pooled" uses the mean of the last block's tokens, before the head; "embedding" uses
        the embeddings of the contrastive loss.
      sweep: whether the penalty is chosen on held-out images, see `ridge.accuracy`.
      max_train_images: draw from this many first images of the training source; None reads all.
      batch_size: images embedded per call.
      resize: see `data.images.evaluation_image`.

    Raises:
      TypeError, ValueError: if a source has no labels or an argument is out of range.
    """

    def __init__(
        self,
        train_source: Source,
        test_source: Source,
        *,
        shots: Sequence[int] = (1, 5, 10, 25),
        num_seeds: int = 3,
        layer: str = "pooled",
        sweep: bool = False,
        max_train_images: int | None = None,
        batch_size: int = 250,
        resize: str = "resize",
    ):
        self.train_source, self.test_source = train_source, test_source
        for name in ("train_source", "test_source"):
            if not look.checked_source(getattr(self, name), name=name).has_labels:
                raise ValueError(
                    f"`{name}` must have labels. Received: {name}={getattr(self, name).name!r}"
                )
        self.shots = [checks.positive_int("shots", number) for number in shots]
        self.num_seeds = checks.positive_int("num_seeds", num_seeds)
        self.layer = checks.one_of("layer", layer, ("pooled", "embedding"))
        self.sweep = sweep
        if max_train_images is not None:
            checks.positive_int("max_train_images", max_train_images)
        self.max_train_images = max_train_images
        self.batch_size = checks.positive_int("batch_size", batch_size)
        self.resize = checks.one_of("resize", resize, images.EVALUATION_RESIZES)
        self.read = {}

    def check(self, model: Any) -> None:
        """Raises a ValueError if images cannot be read, or a class has too few."""
        for source in (self.train_source, self.test_source):
            look.first(source, model, resize=self.resize)
        train, are_all = look.labels(self.train_source, most=self.max_train_images)
        train = _one_each(self.train_source, train)
        test = _one_each(self.test_source, look.labels(self.test_source)[0])
        if are_all:
            ridge.check_known(test, train)
            ridge.draw_shots(train, max(self.shots), seed=0)

    def __call__(self, model: Any, vocabulary: Vocabulary) -> dict[str, float]:
        """Returns the results of `ridge.accuracy`."""
        if self.layer == "pooled":
            encode = feature_encoder(model)
            model = types.SimpleNamespace(image_size=model.image_size, encode_image=encode)
        self.read = {}
        train = self._features(self.train_source, model, self.max_train_images)
        test = self._features(self.test_source, model, None)
        return ridge.accuracy(
            *train, *test, shots=self.shots, num_seeds=self.num_seeds, sweep=self.sweep
        )

    def _features(self, source, model, most):
        """Returns <float32>[n, D] features and <int64>[n] labels, n <= `most`."""
        num_batches = -1 if most is None else math.ceil(most / self.batch_size)
        embedded, read = embed_source(
            source,
            model,
            None,
            feature="labels",
            batch_size=self.batch_size,
            resize=self.resize,
            change=lambda batches: batches.take(num_batches),
        )
        self.read |= read
        labels = _one_each(source, embedded.features["labels"][:most])
        return embedded.image[:most], labels


def _one_each(source, labels):
    """Returns <int64>[n] labels of n images that have one each."""
    if several := [row for row in labels if len(row) != 1]:
        raise ValueError(
            "A source must have one label for each image. "
            f"Received: {source.name!r}, with an image of labels {several[0]}"
        )
    return np.array(labels, np.int64)[:, 0]
