"""The evaluation tasks of a run: each is called with a model and a vocabulary and returns a dict.

A task's `read` describes the data of the latest call: a dict, by name of the source, of dicts with
the numbers of `images` and `captions`, and a report of the `bad_records` that were skipped.
A task's `check` reads a little of its data, and raises what would make the call fail.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from limoe_tf import checks, companions
from limoe_tf.data import images
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import training_batches
from limoe_tf.data.labels import read_names
from limoe_tf.data.records import Source
from limoe_tf.data.words import Vocabulary
from limoe_tf.evaluate import look, retrieval, routing, zero_shot
from limoe_tf.evaluate.embed import embed_source, text_encoder


class ZeroShot:
    """Zero-shot classification of a labelled source.

    Args:
      source: a source with labels.
      class_names: a name for each label, as a list or as the path of a text file with one name per
        line; None for those of the source.
      templates: prompts with "{}" in place of the name, as a list or such a path.
      groups: dict of lists of labels: results are separate for the images all of whose labels are
        in a group. None for one group of all images, "all".
      batch_size: images embedded at a time.
      resize: see `data.images.evaluation_image`.

    Raises:
      TypeError, ValueError: if the source has no labels or too few names for them, a name or
        template makes no prompt, a group is not of labels, or there is no such file.
    """

    def __init__(
        self,
        source: Source,
        *,
        class_names: Sequence[str] | str | os.PathLike | None = None,
        templates: Sequence[str] | str | os.PathLike = ("{}",),
        groups: Mapping[str, Sequence[int]] | None = None,
        batch_size: int = 250,
        resize: str = "resize",
    ):
        self.source = look.with_labels(source)
        self.class_names = _lines("class_names", class_names) or source.label_names
        if not self.class_names:
            raise ValueError(f"`class_names` must be given: {source.name!r} names none.")
        self.templates = _lines("templates", templates)
        zero_shot.check_prompts(self.class_names, self.templates)
        if len(self.class_names) < len(self.source.label_names or ()):
            raise ValueError(
                f"`class_names` must name all {len(self.source.label_names)} classes of "
                f"{source.name!r}. Received: {len(self.class_names)} names"
            )
        self.groups = _checked_groups(groups, len(self.class_names))
        self.batch_size, self.resize = _reading(batch_size, resize)
        self.read = {}

    def check(self, model: Any) -> None:
        """Raises a ValueError if images cannot be read, or a label has no name."""
        look.first(self.source, model, resize=self.resize)
        labels, are_all = look.labels(self.source)
        zero_shot.check_labels(labels, len(self.class_names))
        if are_all:
            self._by_group(labels)

    def _by_group(self, labels):
        """Returns by group which images are in it, by the labels of each image."""
        groups, rows = self.groups or {"all": range(len(self.class_names))}, {}
        for name, members in groups.items():
            rows[name] = [i for i, of_image in enumerate(labels) if set(of_image) <= set(members)]
            if not rows[name]:
                raise ValueError(f"`groups` must each have images. Received: none for {name!r}")
        return rows

    def __call__(self, model: Any, vocabulary: Vocabulary) -> dict[str, Any]:
        """Returns a dict of top-1 accuracy by group, and three more results of each group.

        These are `GROUP_top_5` and `GROUP_mean_per_class` of `zero_shot.accuracy`, and
        `GROUP_calibration_error` at the model's temperature.
        """
        embedded = _embed(self, model, vocabulary, "labels")
        labels = embedded.features["labels"]
        zero_shot.check_labels(labels, len(self.class_names))
        classes = zero_shot.class_embeddings(
            text_encoder(model, vocabulary), self.class_names, self.templates
        )
        scale, results = float(model.logit_scale()), {}
        for name, rows in self._by_group(labels).items():
            group = embedded.image[rows], classes, [labels[i] for i in rows]
            accuracy = zero_shot.accuracy(*group)
            results[name] = accuracy["top_1"]
            results[f"{name}_top_5"] = accuracy["top_5"]
            results[f"{name}_mean_per_class"] = accuracy["mean_per_class"]
            error = zero_shot.calibration_error(*group, logit_scale=scale)
            results[f"{name}_calibration_error"] = error
        return results


class Retrieval:
    """Image-text retrieval over a whole source, all captions of every image.

    Args:
      source: a source with captions.
      batch_size: images embedded at a time.
      resize: see `data.images.evaluation_image`.
    """

    def __init__(self, source: Source, *, batch_size: int = 250, resize: str = "resize"):
        self.source = look.with_captions(source)
        self.batch_size, self.resize = _reading(batch_size, resize)
        self.read = {}

    def check(self, model: Any) -> None:
        """Raises a ValueError if images and captions cannot be read."""
        look.first(self.source, model, resize=self.resize)

    def __call__(self, model: Any, vocabulary: Vocabulary) -> dict[str, Any]:
        """Returns recalls and the median rank of both directions, and their `chance` levels."""
        embedded = _embed(self, model, vocabulary, "captions")
        found = retrieval.recalls(embedded.image, embedded.text, embedded.image_of_text)
        by_chance = retrieval.chance(embedded.image_of_text)
        return {way: {**numbers, **by_chance[way]} for way, numbers in found.items()}


class ContrastiveAccuracy:
    """How often an image's own caption is the nearest in a minibatch of pairs.

    Each image has one caption, drawn by the seed and the position of the image in the source.

    Args:
      source: a source with captions.
      minibatch_size: see `retrieval.contrastive_accuracy`; the last minibatch may be smaller.
      seed: seed of the drawn captions.
      batch_size: images embedded per call; does not affect the result.
      resize: see `data.images.evaluation_image`.
    """

    def __init__(
        self,
        source: Source,
        *,
        minibatch_size: int = 1024,
        seed: int = 0,
        batch_size: int = 250,
        resize: str = "resize",
    ):
        self.source = look.with_captions(source)
        self.minibatch_size = checks.positive_int("minibatch_size", minibatch_size)
        self.seed = checks.integer_in("seed", seed, 0)
        self.batch_size, self.resize = _reading(batch_size, resize)
        self.read = {}

    def check(self, model: Any) -> None:
        """Raises a ValueError if images and captions cannot be read."""
        look.first(self.source, model, resize=self.resize)

    def __call__(self, model: Any, vocabulary: Vocabulary) -> dict[str, Any]:
        """Returns `accuracy`, and its `chance` level."""
        embedded = _embed(self, model, vocabulary, "captions", change=self._one_caption_each)
        return retrieval.contrastive_accuracy(
            embedded.image, embedded.text, minibatch_size=self.minibatch_size
        )

    def _one_caption_each(self, batches):
        numbers = np.random.default_rng(self.seed)
        for batch in batches:
            lengths = batch["captions"].row_lengths().numpy()
            place = (numbers.random(len(lengths)) * lengths).astype(np.int64)
            captions = tf.gather(batch["captions"], place[:, np.newaxis], batch_dims=1)
            yield {**batch, "captions": tf.RaggedTensor.from_tensor(captions)}


class SuccessRates:
    """The share of tokens that are not dropped, see `routing.success_rates`.

    Args:
      source: a source with captions.
      batch_size: pairs routed together: that of training.
      num_batches: number of batches.
    """

    def __init__(self, source: Source, *, batch_size: int, num_batches: int = 4):
        self.source = look.with_captions(source, may_be_mixture=True)
        self.batch_size = checks.positive_int("batch_size", batch_size)
        self.num_batches = checks.positive_int("num_batches", num_batches)
        self.read = {}

    def check(self, model: Any) -> None:
        """Raises a ValueError if pairs cannot be read, or the model cannot route as many."""
        routing.check_batch_size(model, self.batch_size)
        for part in look.parts(self.source):
            look.first(part, model)

    def __call__(self, model: Any, vocabulary: Vocabulary) -> dict[str, Any]:
        """Returns the mean success rate by modality, and by block and modality."""
        companions.check(model, vocabulary=vocabulary)
        bad_records = BadRecords()
        batches = training_batches(
            self.source,
            vocabulary=vocabulary,
            batch_size=self.batch_size,
            image_size=model.image_size,
            seed=0,
            shuffle_window=self.batch_size * self.num_batches,
            bad_records=bad_records,
        )
        with bad_records.as_value_error():
            rates = routing.success_rates(model, batches.take(self.num_batches))
        pairs = self.batch_size * self.num_batches
        self.read = {self.source.name: {"pairs": pairs, "bad_records": bad_records.report()}}
        return rates


def _embed(task, model, vocabulary, feature, **others):
    """Returns the embedded source of a task, and sets the task's `read`."""
    settings = {"batch_size": task.batch_size, "resize": task.resize}
    embedded, task.read = embed_source(
        task.source, model, vocabulary, feature=feature, **settings, **others
    )
    return embedded


def _reading(batch_size, resize):
    checks.one_of("resize", resize, images.EVALUATION_RESIZES)
    return checks.positive_int("batch_size", batch_size), resize


def _checked_groups(groups, num_classes):
    for name, members in (groups or {}).items():
        for label in members:
            checks.integer_in(f"groups[{name!r}]", label, 0, num_classes - 1)
    return groups


def _lines(name, value):
    """Returns a list unchanged, or the lines of the file at a path."""
    return read_names(value, argument=name) if isinstance(value, (str, os.PathLike)) else value
