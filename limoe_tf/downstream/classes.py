"""The base of tasks with one right class of each example.

Axis letters: B examples of a replica, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.downstream.batches import Record
from limoe_tf.downstream.fine_tuned import FineTuned
from limoe_tf.export.downstream import Signature
from limoe_tf.objectives.masked import masked_classes
from limoe_tf.report import Report


class Classifier(FineTuned):
    """Cross-entropy, and how often it is right; a subclass has a `head` of its `num_classes`.

    Its `call` returns `logits` <float>[B, C]; a batch holds `label` <int32>[B].

    Args:
      backbone: see `FineTuned`.
      class_names: a name for each class, or their number.
      **kwargs: see `FineTuned`.

    Attributes:
      signature: name of its function in a SavedModel.
    """

    signature: ClassVar[str]
    task_losses: ClassVar = ("cross_entropy",)
    per_replica: ClassVar = ("cross_entropy", "accuracy")
    summary_logs: ClassVar = ("cross_entropy", "accuracy")
    label_field: ClassVar[str] = "label"

    def __init__(self, backbone, *, class_names: Sequence[str] | int, **kwargs):
        super().__init__(backbone, **kwargs)
        number = class_names if isinstance(class_names, int) else len(class_names)
        checks.integer_in("class_names", number, 2)
        self.class_names = class_names if isinstance(class_names, int) else list(class_names)
        self.num_classes = number

    @property
    def heads(self):
        return [self.head]

    def labels(self, record: Record) -> dict[str, tf.Tensor]:
        """Returns `label` <int32>[], the first of the record's; an error if it is no class."""
        label = tf.cast(tf.reshape(record[self.label_field], [-1])[0], tf.int32)
        is_class = (label >= 0) & (label < self.num_classes)
        with tf.control_dependencies([tf.debugging.Assert(is_class, ["no label of a class"])]):
            return {"label": tf.identity(label)}

    def label_specs(self, size):
        return {"label": tf.TensorSpec([size], tf.int32)}

    def losses_of(self, outputs, batch):
        found = masked_classes(outputs["logits"][:, tf.newaxis], batch["label"][:, tf.newaxis])
        return Report({"cross_entropy": found.loss}, {"accuracy": found.accuracy})

    def signatures(self) -> dict[str, Signature]:
        """Returns one, with the names of the `classes` <string>[C] and their `probabilities`."""

        def logits(batch):
            return self(batch, training=False)[0]["logits"]

        def answer(logits):
            return {"classes": tf.constant(names), "probabilities": tf.nn.softmax(logits)}

        names = self.class_names
        if isinstance(names, int):
            names = [str(number) for number in range(names)]
        parts = (self.images, self.texts, logits, self.num_classes, answer)
        return {self.signature: Signature(*parts)}

    def metrics_of_task(self) -> dict[str, keras.metrics.Metric]:
        """Returns new metrics by name, of <int32>[B] labels and <float32>[B, C] logits."""
        found = {"accuracy": keras.metrics.SparseCategoricalAccuracy()}
        if self.num_classes > 10:
            found["top_5"] = keras.metrics.SparseTopKCategoricalAccuracy(k=5)
        return found

    def score(
        self, outputs: Mapping[str, np.ndarray], examples: Mapping[str, Any]
    ) -> dict[str, float]:
        """Returns the value of each metric over a whole data set.

        Args:
          outputs: dict of `logits` <float32>[n, C].
          examples: dict of `label` <int32>[n].
        """
        metrics = self.metrics_of_task()
        for metric in metrics.values():
            metric.update_state(examples["label"], outputs["logits"])
        return {name: float(metric.result()) for name, metric in metrics.items()}

    def get_config(self):
        return {**super().get_config(), "class_names": self.class_names}
