"""The auxiliary losses of gates as Keras' regularizers of activity: docs/layers.md."""

from limoe_tf.moe.regularizers import (
    GlobalEntropy,
    Importance,
    LocalEntropy,
    MutualInformation,
    ZLoss,
)

__all__ = ["GlobalEntropy", "Importance", "LocalEntropy", "MutualInformation", "ZLoss"]
