"""From the features of a backbone to the classes of a task.

Axis letters: B examples, D width of the features, C classes.
"""

import keras
import tensorflow as tf

from limoe_tf import checks, initial
from limoe_tf.xla import gelu


@keras.saving.register_keras_serializable(package="limoe_tf")
class ClassHead(keras.layers.Layer):
    """A pooling layer with tanh; a layer of double width, a norm and GELU; then the classes.

    Args:
      num_classes: C.
      num_features: how many vectors of a pooling layer each are concatenated for an answer.

    Reference: https://arxiv.org/abs/2111.02358, appendix (heads of VQA and NLVR2).
    """

    def __init__(self, num_classes: int, *, num_features: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = checks.positive_int("num_classes", num_classes)
        self.num_features = checks.positive_int("num_features", num_features)

    def build(self, features_shape):
        width = features_shape[-1]
        self.pooler = self._dense("pooler", width, width)
        self.hidden = self._dense("hidden", self.num_features * width, 2 * width)
        self.norm = keras.layers.LayerNormalization(
            epsilon=1e-6, name="norm", dtype=self.dtype_policy
        )
        self.norm.build((None, 2 * width))
        self.classes = self._dense("classes", 2 * width, self.num_classes)
        self.built = True

    def _dense(self, name, width_in, width_out):
        dense = keras.layers.Dense(
            width_out, kernel_initializer=initial.kernel(0.02), name=name, dtype=self.dtype_policy
        )
        dense.build((None, width_in))
        return dense

    def call(self, *features: tf.Tensor) -> tf.Tensor:
        """Returns <float>[B, C] of one or several <float>[B, D], as many as `num_features`."""
        pooled = tf.concat([tf.tanh(self.pooler(one)) for one in features], axis=-1)
        return self.classes(gelu(self.norm(self.hidden(pooled))))

    def compute_output_shape(self, *features_shapes):
        return (features_shapes[0][0], self.num_classes)

    def get_config(self):
        return {
            **super().get_config(),
            "num_classes": self.num_classes,
            "num_features": self.num_features,
        }


@keras.saving.register_keras_serializable(package="limoe_tf")
class LinearHead(keras.layers.Layer):
    """A norm and one linear layer.

    Args:
      num_classes: C.

    Reference: https://arxiv.org/abs/2106.08254, section 3.2 (mean of the patches, norm, linear).
    """

    def __init__(self, num_classes: int, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = checks.positive_int("num_classes", num_classes)

    def build(self, features_shape):
        self.norm = keras.layers.LayerNormalization(
            epsilon=1e-6, name="norm", dtype=self.dtype_policy
        )
        self.norm.build(features_shape)
        self.classes = keras.layers.Dense(
            self.num_classes,
            kernel_initializer=initial.kernel(0.02),
            name="classes",
            dtype=self.dtype_policy,
        )
        self.classes.build(features_shape)
        self.built = True

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """Returns <float>[B, C] of <float>[B, D]."""
        return self.classes(self.norm(features))

    def compute_output_shape(self, features_shape):
        return (features_shape[0], self.num_classes)

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}
