"""What a second sentence is to a first one: natural language inference, and its like.

Axis letters: B examples, N word pieces, C classes.
"""

import keras

from limoe_tf.downstream.classes import Classifier
from limoe_tf.downstream.heads import ClassHead

NLI_CLASSES = ("entailment", "neutral", "contradiction")


@keras.saving.register_keras_serializable(package="limoe_tf")
class SentencePairClassifier(Classifier):
    """Tells the class of two sentences, which are read as one text.

    A record has `premise`, `hypothesis` and `label`; a batch is a dict of `text` <int32>[B, N],
    both with an end of sentence in between, `text_valid` <bool>[B, N], and `label` <int32>[B] to
    train.

    Args:
      backbone: `VlMoe` or `Limoe`, see `FineTuned`.
      class_names: see `Classifier`.
      **kwargs: see `FineTuned`.

    Reference: https://arxiv.org/abs/1704.05426 (MNLI).
    """

    texts = {"text": ("premise", "hypothesis")}  # noqa: RUF012
    signature = "classify_pair"
    passes = {"text": 1}  # noqa: RUF012

    def __init__(self, backbone, *, class_names=NLI_CLASSES, **kwargs):
        super().__init__(backbone, class_names=class_names, **kwargs)
        self.head = ClassHead(self.num_classes, name="head", dtype=self.dtype_policy)
        self.build()

    def call(self, batch, training=None):
        """Returns a dict of `logits` <float>[B, C], and the backbone's Report."""
        text = {name: batch[name] for name in ("text", "text_valid")}
        features, report = self.backbone.features(text, training=training)
        return {"logits": self.head(features["text"])}, report
