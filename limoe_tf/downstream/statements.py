"""Whether a statement on two images is true: NLVR2, and its like.

Axis letters: B examples, N word pieces, S side of an image.
"""

import keras

from limoe_tf.downstream.classes import Classifier
from limoe_tf.downstream.fine_tuned import by_example
from limoe_tf.downstream.heads import ClassHead
from limoe_tf.downstream.nlvr2_score import nlvr2_score


@keras.saving.register_keras_serializable(package="limoe_tf")
class StatementModel(Classifier):
    """Reads a statement with each of two images, and judges it from both pairs.

    A record has `image`, `other_image`, `statement` and `label`, 1 if it is true; a batch is a dict
    of `image` and `other_image` <uint8>[B, S, S, 3], `statement` <int32>[B, N], `statement_valid`
    <bool>[B, N], and `label` <int32>[B] to train.

    Args:
      backbone: `VlMoe`, see `FineTuned`.
      **kwargs: see `FineTuned`.

    Reference: https://arxiv.org/abs/1811.00491 (NLVR2); https://arxiv.org/abs/2111.02358 (head).
    """

    images = ("image", "other_image")
    texts = {"statement": ("statement",)}  # noqa: RUF012
    signature = "classify_pair"
    passes = {"pair": 2}  # noqa: RUF012
    kept = ("identifier",)

    def __init__(self, backbone, *, class_names=("false", "true"), **kwargs):
        super().__init__(backbone, class_names=class_names, **kwargs)
        self.head = ClassHead(
            self.num_classes, num_features=2, name="head", dtype=self.dtype_policy
        )
        self.build()

    def call(self, batch, training=None):
        """Returns a dict of `logits` <float>[B, 2], and the backbone's Report."""
        pairs = {
            "image": by_example([batch["image"], batch["other_image"]]),
            "text": by_example(2 * [batch["statement"]]),
            "text_valid": by_example(2 * [batch["statement_valid"]]),
        }
        features, report = self.backbone.pair_features(pairs, training=training)
        return {"logits": self.head(features[::2], features[1::2])}, report

    def score(self, outputs, examples):
        """Returns the accuracy and, where examples have an `identifier`, the consistency."""
        if "identifier" not in examples:
            return super().score(outputs, examples)
        predicted = outputs["logits"].argmax(axis=1)
        return nlvr2_score(examples["identifier"], examples["label"], predicted)
