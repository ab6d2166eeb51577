"""The largest entries along an axis, with a gradient that suits TPUs."""

import tensorflow as tf


def largest(values, number):
    """Returns what `tf.math.top_k` does; the gradient is a comparison, where that one scatters.

    Args:
      values: <float>[..., E].
      number: K, how many; 1 takes no sorting.

    Returns:
      <float>[..., K] from the largest to the smallest, and <int32>[..., K] their indices. Of equal
      entries the first comes first.
    """

    @tf.custom_gradient
    def choose(entries):
        if number == 1:
            found = tf.reduce_max(entries, axis=-1, keepdims=True)
            indices = tf.argmax(entries, axis=-1, output_type=tf.int32)[..., tf.newaxis]
        else:
            found, indices = tf.math.top_k(entries, number)

        def gradient(upstream, _):
            places = tf.one_hot(indices, entries.shape[-1], dtype=upstream.dtype)
            return tf.reduce_sum(places * upstream[..., tf.newaxis], axis=-2)

        return (found, indices), gradient

    return choose(values)
