"""From a stream of tokens to one vector of unit length.

Axis letters: B examples, N tokens of a stream, D width, Z embedding size.
"""

import keras
import tensorflow as tf

from limoe_tf import checks, tokens


@keras.saving.register_keras_serializable(package="limoe_tf")
class Head(keras.layers.Layer):
    """Average-pools the valid tokens, projects without bias, and normalizes to unit length.

    Args:
      embedding_size: Z.

    Reference: https://arxiv.org/abs/2206.02770, section 2.1; the unit length is the lab's practice.
    """

    def __init__(self, embedding_size: int, **kwargs):
        super().__init__(**kwargs)
        self.embedding_size = checks.positive_int("embedding_size", embedding_size)
        self.supports_masking = True
        self.projection = keras.layers.Dense(
            embedding_size,
            use_bias=False,
            kernel_initializer="lecun_normal",
            name="projection",
            dtype=self.dtype_policy,
        )

    def build(self, stream_shape):
        self.projection.build((None, tokens.width_of(stream_shape)))
        self.built = True

    def call(
        self,
        stream: tf.Tensor,
        valid: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns <float32>[B, Z] of unit length.

        Args:
          stream: <float>[B, N, D].
          valid: <bool>[B, N] False on tokens that are left out; None if every token is
            valid, or where `mask` says it.
          mask: Keras' mask of `stream`; Keras fills it in.
        """
        pooled = self.pool(*tokens.as_stream(stream, valid, mask=mask))
        return unit_length(self.projection(pooled))

    def compute_output_spec(self, stream, *args, **kwargs):
        return keras.KerasTensor(self.compute_output_shape(stream.shape), dtype="float32")

    def compute_output_shape(self, stream_shape):
        return (stream_shape[0], self.embedding_size)

    def compute_mask(self, stream, previous_mask):
        return None

    def pool(self, stream: tf.Tensor, valid: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the mean over valid tokens, <float32>[B, D]: the features of few-shot probes."""
        stream = tf.cast(stream, tf.float32)
        if valid is None:
            return tf.reduce_mean(stream, axis=1)
        share = tf.cast(valid, tf.float32)[..., tf.newaxis]
        return tf.math.divide_no_nan(
            tf.reduce_sum(stream * share, axis=1), tf.reduce_sum(share, axis=1)
        )

    def get_config(self):
        return {**super().get_config(), "embedding_size": self.embedding_size}


def unit_length(vectors: tf.Tensor) -> tf.Tensor:
    """Returns <float>[B, Z] as <float32>[B, Z] of length 1; a zero vector stays zero."""
    vectors = tf.cast(vectors, tf.float32)
    return vectors * tf.math.rsqrt(tf.reduce_sum(tf.square(vectors), -1, keepdims=True) + 1e-16)
