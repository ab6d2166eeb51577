"""Several tensors of one dtype as one vector, and back: a single exchange or loop variable."""

from typing import Any

import tensorflow as tf


def packed(values: Any) -> tf.Tensor:
    """Returns the entries of all tensors of a nest, one after another: <...>[M]."""
    return tf.concat([tf.reshape(value, [-1]) for value in tf.nest.flatten(values)], axis=0)


def unpacked(vector: tf.Tensor, like: Any) -> Any:
    """Returns a nest of tensors in the shapes of `like`, whose entries lie in `vector`.

    Args:
      vector: <...>[M], as of `packed`.
      like: nest of tensors of static shapes.
    """
    flat = tf.nest.flatten(like)
    parts = tf.split(vector, [value.shape.num_elements() for value in flat])
    parts = [tf.reshape(part, value.shape) for part, value in zip(parts, flat, strict=True)]
    return tf.nest.pack_sequence_as(like, parts)
