"""The model that is trained by contrasting images with texts."""

from collections.abc import Mapping
from typing import ClassVar

import keras
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.model import contrast, slices
from limoe_tf.objectives.total import DEFAULT_WEIGHTS
from limoe_tf.report import Report
from limoe_tf.train.fit import TrainableModel

_NO_EXPORT = (
    "`export` is `limoe_tf.export.saved_model.export(model, vocabulary, path)`: a SavedModel for "
    "images and texts holds their vocabulary and their decoding. Received: `model.export`"
)


class ContrastiveModel(TrainableModel):
    """A Keras model trained by contrasting images with texts.

    A subclass has `call(batch, training) -> (embeddings, Report)`, with `embeddings` a dict of
    `image` and `text` <float32>[B, Z] and `logit_scale` <float32>[]; with `logit_bias` <float32>[]
    among them, the loss is the sigmoid one. It has `image_size` and `text_length`.
    """

    default_weights: ClassVar = DEFAULT_WEIGHTS
    per_replica: ClassVar = ("contrastive", "accuracy")
    summary_logs: ClassVar = (
        "contrastive", "accuracy", "temperature", "success_rate_image", "success_rate_text",
    )  # fmt: skip
    stream_keys: ClassVar = {"image": "image", "text": "text"}
    compile_options: ClassVar = ("same_text_positives", "num_slices")
    same_text_positives = False
    num_slices = 1

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str,
        *,
        same_text_positives: bool = False,
        num_slices: int = 1,
        **kwargs,
    ) -> None:
        """Prepares for training.

        Args:
          optimizer: see `TrainableModel.compile`.
          same_text_positives: whether pairs of a batch with equal texts count as positives of each
            other, see `objectives.contrastive`. In the paper they do not.
          num_slices: number of slices (microbatches) of a replica's batch, computed one after
            another in less memory, with the gradients of the whole batch: see `slices`. The
            forward pass of each slice runs twice. Routing groups lie within slices: results with
            and without slices agree if `group_size` divides both the batch and a slice.
          **kwargs: `loss_weights`, `detailed_logs`, `jit_compile` and others of
            `TrainableModel.compile`.

        Raises:
          ValueError: see `TrainableModel.compile`; if `num_slices` is not a positive integer.
        """
        super().compile(optimizer, **kwargs)
        self.same_text_positives = same_text_positives
        self.num_slices = checks.positive_int("num_slices", num_slices)

    def forward(self, batch: Mapping[str, tf.Tensor], *, training: bool) -> Report:
        """Returns the Report of a batch of pairs: the contrastive loss, and those of all layers.

        Raises:
          ValueError: if the batch lacks one of the modalities.
        """
        contrast.check_modalities(batch)
        embeddings, report = self(batch, training=training)
        return contrast.joined(contrast.contrast_of(self, embeddings, batch), embeddings, report)

    def differentiate(self, batch, weights):
        if self.num_slices == 1:
            return super().differentiate(batch, weights)
        report, found = slices.differentiate(self, batch, weights)
        return self.loss_and_logs(report, weights)[1], found

    @property
    def data_options(self) -> dict[str, int]:
        """The `image_size` of `data.batches.training_batches`."""
        return {"image_size": self.image_size}

    def batch_spec(self, size: int | None) -> dict[str, tf.TensorSpec]:
        """Returns the specs of `image`, `text` and `text_valid`."""
        texts = [size, self.text_length]
        return {
            "image": tf.TensorSpec([size, self.image_size, self.image_size, 3], tf.uint8),
            "text": tf.TensorSpec(texts, tf.int32),
            "text_valid": tf.TensorSpec(texts, tf.bool),
        }

    def infer(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns the embeddings, <float32>[B, Z] of each modality in the batch."""
        embeddings, _ = self(batch, training=False)
        return {name: e for name, e in embeddings.items() if name not in contrast.SCALARS}

    def export(self, *args, **kwargs):
        """Raises NotImplementedError: `limoe_tf.export.saved_model.export` also takes texts."""
        raise NotImplementedError(_NO_EXPORT)
