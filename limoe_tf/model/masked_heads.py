"""What a token says of the word, or of the patch, that is hidden in its place.

Axis letters: B examples, N tokens of a stream, M masked places, D width, C classes.
"""

import keras
import tensorflow as tf

from limoe_tf import checks, initial
from limoe_tf.xla import gelu


def at_places(stream: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Returns the tokens <float>[B, M, D] of <float>[B, N, D] at `places` <int32>[B, M]."""
    return tf.gather(stream, places, batch_dims=1)


@keras.saving.register_keras_serializable(package="limoe_tf")
class MaskedPatchHead(keras.layers.Layer):
    """One linear layer, behind the final norm of the encoder.

    Args:
      num_outputs: C, codes of a `patch_codes.PatchCodes`, or features of a patch.

    Reference: https://arxiv.org/abs/2106.08254, section 2.3.
    """

    def __init__(self, num_outputs: int, **kwargs):
        super().__init__(**kwargs)
        self.num_outputs = checks.positive_int("num_outputs", num_outputs)

    def build(self, tokens_shape):
        self.projection = keras.layers.Dense(
            self.num_outputs,
            kernel_initializer=initial.kernel(0.02),
            name="projection",
            dtype=self.dtype_policy,
        )
        self.projection.build(tokens_shape)
        self.built = True

    def call(self, tokens: tf.Tensor) -> tf.Tensor:
        """Returns <float>[B, M, C] of tokens <float>[B, M, D]."""
        return self.projection(tokens)

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape[:-1], self.num_outputs)

    def get_config(self):
        return {**super().get_config(), "num_outputs": self.num_outputs}


@keras.saving.register_keras_serializable(package="limoe_tf")
class MaskedWordHead(keras.layers.Layer):
    """A dense layer, GELU and a norm; then a vector and a bias for each word piece.

    Args:
      vocabulary_size: C.
      tied: whether the vectors are those with which word pieces are embedded: `call` gets them.

    Reference: https://arxiv.org/abs/1810.04805, appendix A.1, and the code of BERT.
    """

    def __init__(self, vocabulary_size: int, *, tied: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary_size = checks.positive_int("vocabulary_size", vocabulary_size)
        self.tied = tied

    def build(self, tokens_shape):
        width = tokens_shape[-1]
        self.dense = keras.layers.Dense(
            width,
            kernel_initializer=initial.kernel(0.02),
            name="dense",
            dtype=self.dtype_policy,
        )
        self.dense.build(tokens_shape)
        self.norm = keras.layers.LayerNormalization(
            epsilon=1e-6, name="norm", dtype=self.dtype_policy
        )
        self.norm.build(tokens_shape)
        if not self.tied:
            self.embeddings = self.add_weight(
                name="embeddings",
                shape=(self.vocabulary_size, width),
                initializer=initial.kernel(0.02),
            )
        self.bias = self.add_weight(name="bias", shape=(self.vocabulary_size,), initializer="zeros")
        self.built = True

    def call(self, tokens: tf.Tensor, embeddings: tf.Tensor | None = None) -> tf.Tensor:
        """Returns <float>[B, M, C] of tokens <float>[B, M, D].

        Args:
          tokens: see above.
          embeddings: <float>[C or more, D] of the word pieces, if `tied`; rows behind C are those
            of special tokens, which no masked place has.
        """
        vectors = embeddings[: self.vocabulary_size] if self.tied else self.embeddings
        vectors = tf.cast(tf.convert_to_tensor(vectors), self.compute_dtype)
        logits = tf.einsum("bmd,cd->bmc", self.norm(gelu(self.dense(tokens))), vectors)
        return logits + tf.cast(tf.convert_to_tensor(self.bias), logits.dtype)

    def compute_output_shape(self, tokens_shape, embeddings_shape=None):
        return (*tokens_shape[:-1], self.vocabulary_size)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "tied": self.tied,
        }
