"""What sparse layers report, as Keras' metrics: docs/layers.md."""

from limoe_tf.moe.metrics import ExpertsInUse, SuccessRate

__all__ = ["ExpertsInUse", "SuccessRate"]
