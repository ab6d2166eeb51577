"""Self-attention of one stream.

Axis letters: B examples, N tokens of a stream, D width, A heads.
"""

import math

import keras
import tensorflow as tf

from limoe_tf import checks, initial, tokens
from limoe_tf.model import chunks
from limoe_tf.xla import in_xla

# Of a chunk's scores: a part of what the memory on a TPU chip holds, beside what is made of them.
_CHUNK_BYTES = 2**24


@keras.saving.register_keras_serializable(package="limoe_tf")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention within each sequence of a stream.

    Args:
      num_heads: A; must divide the stream's width.
      kernel_stddev, output_stddev: of the initial values of the kernels, and of the last one, see
        `initial.kernel`.
      chunks: loop over so many chunks of the examples, whose scores are computed again in the
        backward pass; the largest divisor of B below it if it is none. 1: no loop. None: by the
        size of the scores. Outside XLA, and where B is not known, there is no loop.

    Reference: https://arxiv.org/abs/1706.03762, section 3.2.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        kernel_stddev: float | None = None,
        output_stddev: float | None = None,
        chunks: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.chunks = chunks if chunks is None else checks.positive_int("chunks", chunks)
        self.kernel_stddev, self.output_stddev = kernel_stddev, output_stddev
        self.num_heads = checks.positive_int("num_heads", num_heads)
        self.supports_masking = True

    def build(self, stream_shape):
        width = tokens.width_of(stream_shape)
        if width % self.num_heads:
            raise ValueError(
                "`num_heads` must divide the width. "
                f"Received: num_heads={self.num_heads}, width={width}"
            )
        stddevs = dict.fromkeys(("query", "key", "value"), self.kernel_stddev)
        for name, stddev in {**stddevs, "output_projection": self.output_stddev}.items():
            kernel = initial.kernel(stddev)
            dense = keras.layers.Dense(
                width, kernel_initializer=kernel, name=name, dtype=self.dtype_policy
            )
            dense.build((None, None, width))
            setattr(self, name, dense)
        self.built = True

    def call(
        self,
        stream: tf.Tensor,
        valid: tf.Tensor | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns <float>[B, N, D].

        Args:
          stream: <float>[B, N, D].
          valid: <bool>[B, N] False on tokens that are masked out; None if every token is valid, or
            where `mask` says it.
          mask: Keras' mask of `stream`; Keras fills it in.
        """
        stream, valid = tokens.as_stream(stream, valid, mask=mask)
        width = stream.shape[-1]
        scale = 1 / math.sqrt(width // self.num_heads)
        query = self.query(stream) * tf.cast(scale, self.compute_dtype)
        inputs = [query, self.key(stream), self.value(stream)]
        inputs += [] if valid is None else [valid]
        count = self._num_chunks(stream.shape)
        if count == 1:
            attended = self._attend(*inputs)
        else:
            attended = chunks.over_chunks(self._attend, inputs, count=count)
        return self.output_projection(attended)

    def _num_chunks(self, stream_shape):
        batch, length, _ = stream_shape
        if batch is None or not in_xla():
            return 1
        wanted = self.chunks
        if wanted is None:
            examples = _CHUNK_BYTES // (4 * self.num_heads * length**2)
            return batch // chunks.largest_divisor(batch, max(examples, 1))
        return chunks.largest_divisor(batch, wanted)

    def _attend(self, query, key, value, valid=None):
        """Returns the means of the values, <float>[B, N, D]; so are query, key and value."""
        shape, dynamic_shape = query.shape, tf.shape(query)
        query, key, value = map(self._heads, (query, key, value))
        scores = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)  # [B, A, N, N]
        if valid is not None:
            scores += tf.where(valid, 0.0, -1e9)[:, tf.newaxis, tf.newaxis, :]
        attended = tf.matmul(tf.cast(tf.nn.softmax(scores), value.dtype), value)
        attended = tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), dynamic_shape)
        return tf.ensure_shape(attended, shape)

    def _heads(self, values):
        batch, length, width = values.shape
        split = [-1 if batch is None else batch, length, self.num_heads, width // self.num_heads]
        return tf.transpose(tf.reshape(values, split), [0, 2, 1, 3])

    def compute_output_shape(self, stream_shape):
        return stream_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "kernel_stddev": self.kernel_stddev,
            "output_stddev": self.output_stddev,
            "chunks": self.chunks,
        }
