"""Retrieval: images and texts are contrasted, and pairs judged, with hard negatives.

Axis letters: B examples of a replica, P those of all replicas, N word pieces, S side of an image, Z
embedding size.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import keras
import tensorflow as tf

from limoe_tf import checks, initial, report, tokens
from limoe_tf.downstream.batches import Record
from limoe_tf.downstream.fine_tuned import FineTuned, by_example
from limoe_tf.downstream.heads import ClassHead
from limoe_tf.export.downstream import Signature
from limoe_tf.mesh import noise, replicas
from limoe_tf.model.heads import unit_length
from limoe_tf.objectives import contrastive
from limoe_tf.objectives.masked import masked_classes
from limoe_tf.report import Report


@keras.saving.register_keras_serializable(package="limoe_tf")
class RetrievalModel(FineTuned):
    """A dual encoder, and a judge of pairs which ranks again what that has found.

    The contrastive loss (ITC) is that of images and texts alone. The matching loss (ITM) asks of
    each pair, of its image with another text, and of its text with another image, whether they
    belong together. The others are drawn from the batch of all replicas by the softmax of their
    similarities: hard negatives. The global batch must have two pairs or more.

    A batch is a dict of `image` <uint8>[B, S, S, 3], `text` <int32>[B, N] and `text_valid`
    <bool>[B, N].

    Args:
      backbone: `VlMoe`, see `FineTuned`.
      embedding_size: Z; the width if None.
      logit_scale: initial inverse temperature.
      seed: of the negatives.
      **kwargs: see `FineTuned`.

    Reference: https://arxiv.org/abs/2111.02358, section 3.2; https://arxiv.org/abs/2107.07651.
    """

    images = ("image",)
    texts = {"text": ("captions",)}  # noqa: RUF012
    passes = {"image": 1, "text": 1, "pair": 3}  # noqa: RUF012
    task_losses: ClassVar = ("contrastive", "matching")
    per_replica: ClassVar = ("contrastive", "matching", "accuracy", "matching_accuracy")
    summary_logs: ClassVar = ("contrastive", "matching", "accuracy", "matching_accuracy")
    logit_bias = None

    def __init__(
        self,
        backbone,
        *,
        embedding_size: int | None = None,
        logit_scale: float = 10.0,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(backbone, **kwargs)
        self.seed = checks.integer_in("seed", seed, 0)
        self._own = {"embedding_size": embedding_size, "logit_scale": logit_scale, "seed": seed}
        size = self.backbone.width if embedding_size is None else embedding_size
        self.embedding_size = checks.positive_int("embedding_size", size)
        self.projections = {
            name: keras.layers.Dense(
                self.embedding_size,
                use_bias=False,
                kernel_initializer=initial.kernel(0.02),
                name=f"{name}_projection",
                dtype=self.dtype_policy,
            )
            for name in ("image", "text")
        }
        self.judge = ClassHead(2, name="judge", dtype=self.dtype_policy)
        self.logit_scale_log = self.add_weight(
            name="logit_scale_log",
            shape=(),
            initializer=keras.initializers.Constant(
                math.log(checks.number_in("logit_scale", logit_scale, 1e-6))
            ),
            dtype="float32",
            autocast=False,
        )
        self.draws = noise.add_counter(self)
        self.build()

    @property
    def heads(self):
        return [*self.projections.values(), self.judge]

    def labels(self, record: Record) -> dict[str, tf.Tensor]:
        """Returns nothing: all that is asked for is which pairs belong together."""
        return {}

    def label_specs(self, size):
        return {}

    def call(self, batch, training=None):
        """Returns a dict of `image` and `text` <float32>[B, Z] of unit length, and the Report."""
        features, parts = self.backbone.features(batch, training=training)
        embedded = {
            name: unit_length(self.projections[name](one)) for name, one in features.items()
        }
        return embedded, parts

    def encode_image(self, images: tf.Tensor) -> tf.Tensor:
        """Returns <float32>[B, Z] of images as in a batch, at inference."""
        return self.encode({"image": images})["image"]

    def encode_text(self, text: tf.Tensor, text_valid: tf.Tensor) -> tf.Tensor:
        """Returns <float32>[B, Z] of texts as in a batch, at inference."""
        return self.encode({"text": text, "text_valid": text_valid})["text"]

    def matching_logits(
        self, batch: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tuple[tf.Tensor, Report]:
        """Returns <float>[B, 2] of pairs: that they do not, and that they do belong together."""
        features, parts = self.backbone.pair_features(batch, training=training)
        return self.judge(features), parts

    def logit_scale(self) -> tf.Tensor:
        """Returns the inverse temperature, <float32>[]."""
        return tf.exp(tf.convert_to_tensor(self.logit_scale_log))

    def signatures(self) -> dict[str, Signature]:
        """Returns `match`: the `probability` <float32>[B] that image and text belong together."""

        def logits(batch):
            return self.matching_logits(batch, training=False)[0]

        def answer(logits):
            return {"probability": tf.nn.softmax(logits)[:, 1]}

        return {"match": Signature(self.images, {"text": ("text",)}, logits, 2, answer)}

    def forward(self, batch: Mapping[str, tf.Tensor], *, training: bool) -> Report:
        """Returns the Report: both losses, how often each is right, and those of the backbone."""
        embedded, alone = self(batch, training=training)
        images, texts = embedded["image"], embedded["text"]
        contrast = contrastive.contrastive(images, texts, self.logit_scale())
        pairs, labels = self._pairs(batch, images, texts, training)
        logits, parts = self.matching_logits(pairs, training=training)
        matching = masked_classes(logits[:, tf.newaxis], labels[:, tf.newaxis])
        own = Report(
            {"contrastive": contrast.loss, "matching": matching.loss},
            {"accuracy": contrast.accuracy, "matching_accuracy": matching.accuracy},
        )
        return report.merged([own, alone, report.prefixed("pairs", parts)])

    def _pairs(self, batch, images, texts, training):
        """Returns the batch of own pairs and negatives, 3 B of them, and <int32>[3 B] labels."""
        context = replicas.current()
        keys = ("image", "text", "text_valid")
        everyone = {key: _gathered(context, batch[key]) for key in keys}
        seed = noise.next_seed(self) if training else tf.constant([self.seed, -1])
        wrong_text = self._drawn(images, texts, seed)
        far = tf.constant([0, 2**16])
        wrong_image = self._drawn(texts, images, seed + far)
        taken = {"image": wrong_image, "text": wrong_text, "text_valid": wrong_text}
        others = {key: tf.gather(everyone[key], places) for key, places in taken.items()}
        parts = [
            batch,
            {**batch, "text": others["text"], "text_valid": others["text_valid"]},
            {**batch, "image": others["image"]},
        ]
        pairs = {key: by_example([part[key] for part in parts]) for key in keys}
        ones = tf.ones_like(wrong_text)
        return pairs, by_example([ones, 0 * ones, 0 * ones])

    def _drawn(self, own, others, seed):
        """Returns <int32>[B]: a negative of all replicas for each of the own embeddings."""
        context = replicas.current()
        logits = self.logit_scale() * tf.matmul(own, context.gather(others), transpose_b=True)
        logits = tf.stop_gradient(logits)
        first, pairs = contrastive.offset(own, context)
        is_own = tf.range(pairs) == (first + tf.range(tf.shape(own)[0]))[:, tf.newaxis]
        drawn = noise.uniform([*tokens.sizes(logits), 1], seed)[..., 0]
        # The largest of logits with Gumbel noise is a draw from their softmax.
        noisy = tf.where(is_own, -math.inf, logits - tf.math.log(-tf.math.log(drawn)))
        return tf.argmax(noisy, axis=1, output_type=tf.int32)

    def get_config(self):
        return {**super().get_config(), **self._own}


def _gathered(context, values):
    """Returns the rows of all replicas, exchanged as integers of 32 bits: TPUs sum only some types.

    Four pixels are one of them, where they can be divided so.
    """
    static = values.shape[1:]
    if values.dtype == tf.uint8 and static.num_elements() % 4 == 0:
        fours = tf.reshape(values, [-1, static.num_elements() // 4, 4])
        found = tf.bitcast(context.gather(tf.bitcast(fours, tf.int32)), tf.uint8)
        return tf.reshape(found, [-1, *static])
    return tf.cast(context.gather(tf.cast(values, tf.int32)), values.dtype)
