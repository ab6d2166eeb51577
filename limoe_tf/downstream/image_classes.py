"""Image classification.

Axis letters: B examples, C classes.
"""

import keras

from limoe_tf.downstream.classes import Classifier
from limoe_tf.downstream.heads import LinearHead


@keras.saving.register_keras_serializable(package="limoe_tf")
class ImageClassifier(Classifier):
    """Tells the class of an image from the mean of its patches.

    A batch is a dict of `image` <uint8>[B, S, S, 3], and `label` <int32>[B] to train.

    Args:
      backbone: `VlMoe` or `Limoe`, see `FineTuned`.
      class_names: see `Classifier`.
      **kwargs: see `FineTuned`.

    Reference: https://arxiv.org/abs/2208.10442, section 3.3 (image classification by the experts
      of images).
    """

    images = ("image",)
    passes = {"image": 1}  # noqa: RUF012
    label_field = "labels"
    signature = "classify_image"

    def __init__(self, backbone, **kwargs):
        super().__init__(backbone, **kwargs)
        self.head = LinearHead(self.num_classes, name="head", dtype=self.dtype_policy)
        self.build()

    def call(self, batch, training=None):
        """Returns a dict of `logits` <float>[B, C], and the backbone's Report."""
        features, report = self.backbone.features({"image": batch["image"]}, training=training)
        return {"logits": self.head(features["image"])}, report
