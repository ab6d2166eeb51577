"""The MLPs of all experts at once, in the two forms of their buffers; see `dispatch`.

Axis letters: E experts, M rows of an expert's buffer, R rows of all, D width, F hidden width.
"""

import tensorflow as tf

from limoe_tf.custom_gradient import custom_gradient
from limoe_tf.xla import gelu, in_xla, materialized, training_gelu


def padded_mlp(
    buffers: tf.Tensor,
    kernel_in: tf.Tensor,
    bias_in: tf.Tensor,
    kernel_out: tf.Tensor,
    bias_out: tf.Tensor,
    *,
    training: bool,
) -> tf.Tensor:
    """Runs each expert on its own buffer.

    Args:
      buffers: <float>[E, M, D].
      kernel_in: <float>[E, D, F].
      bias_in: <float>[E, F].
      kernel_out: <float>[E, F, D].
      bias_out: <float>[E, D].
      training: whether gradients are computed.

    Returns:
      <float>[E, M, D].
    """
    activation = training_gelu if training else gelu
    if not in_xla():
        return _padded_dense(
            activation(_padded_dense(buffers, kernel_in, bias_in)), kernel_out, bias_out
        )
    hidden = activation(tf.matmul(buffers, kernel_in) + bias_in[:, tf.newaxis])
    # If XLA gave it another shape, it could not fuse the GELU into this matmul.
    return materialized(tf.matmul(hidden, kernel_out) + bias_out[:, tf.newaxis])


_FEW_ROWS, _SMALL = 32, 2**20  # rows of an expert, entries of its kernel


@custom_gradient
def _padded_dense(buffers, kernels, biases):
    """Returns [E, M, a] times [E, a, b] plus [E, b] in the way that is fastest on CPUs.

    Forward, one matmul an expert beats the batched one, but for few rows of small kernels.
    Backward, the batched one writes the kernels' gradient in place, where E matmuls would leave E
    parts to be concatenated; and the biases' is faster as a matmul than as a sum.
    """

    def gradient(upstream):
        ones = tf.ones_like(upstream[:, tf.newaxis, :, 0])
        return (
            tf.matmul(upstream, kernels, transpose_b=True),
            tf.matmul(buffers, upstream, transpose_a=True),
            tf.matmul(ones, upstream)[:, 0],
        )

    num_rows = buffers.shape[1]
    few = num_rows is not None and num_rows <= _FEW_ROWS
    if few and kernels.shape[1:].num_elements() <= _SMALL:
        return tf.matmul(buffers, kernels) + biases[:, tf.newaxis], gradient
    experts = zip(tf.unstack(buffers), tf.unstack(kernels), tf.unstack(biases))
    outputs = [tf.nn.bias_add(tf.matmul(rows, kernel), bias) for rows, kernel, bias in experts]
    return tf.stack(outputs), gradient


def packed_mlp(
    rows: tf.Tensor,
    sizes: tf.Tensor,
    kernel_in: tf.Tensor,
    bias_in: tf.Tensor,
    kernel_out: tf.Tensor,
    bias_out: tf.Tensor,
    *,
    training: bool,
) -> tf.Tensor:
    """Runs each expert on its own segment of rows; the segments' sizes are values, not shapes.

    Args:
      rows: <float>[R, D], those of expert 0, of expert 1 ...; the rest belong to no expert.
      sizes: <int32>[E] rows of each expert.
      kernel_in: <float>[E, D, F].
      bias_in: <float>[E, F].
      kernel_out: <float>[E, F, D].
      bias_out: <float>[E, D].
      training: whether gradients are computed.

    Returns:
      <float>[R, D]; zero for the rows that belong to no expert.
    """
    activation = training_gelu if training else gelu
    hidden = activation(_packed_dense(rows, sizes, kernel_in, bias_in))
    return _packed_dense(hidden, sizes, kernel_out, bias_out)


def _packed_dense(rows, sizes, kernel, bias):
    experts = kernel.shape[0]
    rest = tf.shape(rows)[0] - tf.reduce_sum(sizes)
    segments = tf.split(rows, tf.concat([sizes, [rest]], axis=0), num=experts + 1)
    outputs = [
        tf.nn.bias_add(tf.matmul(segment, matrix), shift)
        for segment, matrix, shift in zip(segments, tf.unstack(kernel), tf.unstack(bias))
    ]
    outputs.append(tf.zeros([rest, kernel.shape[-1]], rows.dtype))
    return tf.ensure_shape(tf.concat(outputs, axis=0), [rows.shape[0], kernel.shape[-1]])
