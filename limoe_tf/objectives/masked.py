"""The loss of masked modelling: cross-entropy, or squared error, at masked places alone.

Axis letters: B examples of a replica, M masked places of an example, C classes (word pieces or
codes of patches), F features of a patch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from limoe_tf.mesh import replicas


class Masked(NamedTuple):
    """<float32>[] each; their means over replicas are those over all masked places.

    Attributes:
      loss: mean cross-entropy in nats, or mean squared error.
      accuracy: share of places at which the target is the most likely class; None of a regression.
    """

    loss: tf.Tensor
    accuracy: tf.Tensor | None


def masked_classes(
    logits: tf.Tensor, targets: tf.Tensor, present: tf.Tensor | None = None
) -> Masked:
    """Asks for the class at each masked place.

    Args:
      logits: <float>[B, M, C].
      targets: <int32>[B, M] in 0..C-1.
      present: <bool>[B, M] False on places that only fill the shape; None if all are masked ones.

    Returns:
      Masked.

    Reference: https://arxiv.org/abs/1810.04805, section 3.1 (words);
      https://arxiv.org/abs/2106.08254, equation 2 (codes of patches).
    """
    logits = tf.cast(logits, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
    hits = tf.equal(tf.argmax(logits, axis=-1, output_type=targets.dtype), targets)
    return Masked(*means([losses, tf.cast(hits, tf.float32)], present))


def masked_values(
    predicted: tf.Tensor, targets: tf.Tensor, present: tf.Tensor | None = None
) -> Masked:
    """Asks for the features of each masked place.

    Args:
      predicted: <float>[B, M, F].
      targets: <float32>[B, M, F].
      present: see `masked_classes`.

    Returns:
      Masked, without an accuracy.
    """
    squares = tf.math.squared_difference(tf.cast(predicted, tf.float32), targets)
    return Masked(*means([tf.reduce_mean(squares, axis=-1)], present), None)


def means(values: Sequence[tf.Tensor], present: tf.Tensor | None = None) -> list[tf.Tensor]:
    """Returns means over present places: values whose means over replicas are those of all.

    Args:
      values: <float32>[...] each, of one shape.
      present: <bool>[...]; None if all are present.
    """
    context = replicas.current()
    weights = tf.ones_like(values[0]) if present is None else tf.cast(present, tf.float32)
    of_all = context.sum(tf.reduce_sum(weights)) / context.count
    return [tf.math.divide_no_nan(tf.reduce_sum(weights * one), of_all) for one in values]
