"""The score of a fine-tuned model on a data set, by the metric of its task."""

import functools
from typing import Any

import numpy as np
import tensorflow as tf

from limoe_tf import checks, companions
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.records import Source
from limoe_tf.data.words import Vocabulary
from limoe_tf.downstream.batches import all_examples, fields_of
from limoe_tf.evaluate import look


class Score:
    """A task: all examples of a source, and what the model's `score` says of its outputs.

    Args:
      source: records with the model's `fields`.
      batch_size: examples of a call; does not affect the result.
      resize: see `data.images.evaluation_image`.
    """

    def __init__(self, source: Source, *, batch_size: int = 100, resize: str = "resize"):
        self.source = look.checked_source(source)
        self.batch_size = checks.positive_int("batch_size", batch_size)
        self.resize = resize
        self.read = {}

    @functools.cached_property
    def _fields(self):
        return fields_of(self.source)

    def check(self, model: Any) -> None:
        """Raises ValueError if the records lack what the model reads."""
        wanted = {
            *model.fields.images,
            *(n for names in model.fields.texts.values() for n in names),
        }
        if missing := sorted(wanted - self._fields):
            raise ValueError(
                f"`source` must have the fields {sorted(wanted)}. "
                f"Received: {self.source.name!r} without {missing}"
            )

    def __call__(self, model: Any, vocabulary: Vocabulary) -> dict[str, Any]:
        """Returns the scores by name."""
        self.check(model)
        companions.check(model, vocabulary=vocabulary)
        kept = sorted(self._fields & {*model.kept})
        bad_records, batches = BadRecords(), []
        examples = all_examples(
            self.source,
            vocabulary=vocabulary,
            batch_size=self.batch_size,
            image_size=model.image_size,
            fields=model.fields,
            resize=self.resize,
            kept=kept,
            bad_records=bad_records,
        )
        inputs = model.batch_spec(None).keys() - model.label_specs(None).keys()
        with bad_records.as_value_error():
            for batch in examples:
                outputs = model.encode({name: batch.pop(name) for name in inputs})
                batches.append((outputs, batch))
        if not batches:
            raise ValueError(f"`source` must have examples. Received: none of {self.source.name}")
        outputs, others = (_joined(parts) for parts in zip(*batches))
        count = len(next(iter(outputs.values())))
        self.read = {self.source.name: {"examples": count, "bad_records": bad_records.report()}}
        return model.score(outputs, others)


def _joined(parts):
    """Returns the parts of each name as one array, of ragged ones as a list of lists."""
    return {name: _concatenated([part[name] for part in parts]) for name in parts[0]}


def _concatenated(values):
    if isinstance(values[0], tf.RaggedTensor):
        return [row for value in values for row in value.to_list()]
    return np.concatenate([np.asarray(value) for value in values])
