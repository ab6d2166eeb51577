"""The contrastive loss over the global batch.

Axis letters: B examples of a replica, P pairs of the global batch, N tokens of a text, Z embedding
size.
"""

import functools
from typing import NamedTuple

import tensorflow as tf

from limoe_tf.mesh import replicas


class Contrast(NamedTuple):
    """Loss and accuracy of a replica's own rows, <float32>[]; their means over replicas count.

    Attributes:
      loss: half the cross-entropy of finding the text of an image, half of finding its image.
      accuracy: share of images to which a positive, such as their own text, is the nearest text of
        the global batch.
    """

    loss: tf.Tensor
    accuracy: tf.Tensor


def contrastive(images, texts, logit_scale, *, tokens=None):
    """Contrasts each pair of this replica with all pairs of all replicas.

    An image and a text are positives if they are a pair. Where class names or emoji keywords are
    the texts, a batch holds many that are equal, and to tell those apart is not to be learned: with
    `tokens`, pairs of equal texts are positives of each other, too. The softmax of a row is then
    compared with a target spread evenly over the row's positives.

    Args:
      images: <float32>[B, Z] of unit length.
      texts: <float32>[B, Z] of unit length; row i belongs to row i of `images`.
      logit_scale: <float32>[] the inverse temperature 1/T.
      tokens: <int32>[B, N] of the texts, padding included, to treat equal ones as positives; None,
        as in the paper: only a pair is positive.

    Returns:
      Contrast; its mean over replicas is that of the global batch, be they of one size or not.

    Reference: https://arxiv.org/abs/2206.02770, equation 1.
    """
    everyone = replicas.current()
    first, pairs = _place(images, everyone)
    of_images = logit_scale * tf.matmul(images, everyone.gather(texts), transpose_b=True)
    of_texts = logit_scale * tf.matmul(texts, everyone.gather(images), transpose_b=True)
    nearest = tf.argmax(of_images, axis=1, output_type=tf.int32)
    if tokens is None:
        labels = first + tf.range(tf.shape(images)[0])
        hits = tf.equal(nearest, labels)
        losses = [
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            for logits in (of_images, of_texts)
        ]
    else:
        positive = _equal_rows(tokens, everyone.gather(tokens))
        hits = tf.gather(positive, nearest, batch_dims=1)
        targets = _spread_evenly(positive)
        losses = [
            tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits)
            for logits in (of_images, of_texts)
        ]
    # Replicas with more pairs than others, as in a last batch, have more weight.
    share = tf.cast(everyone.count, tf.float32) / tf.cast(pairs, tf.float32)
    return Contrast(
        loss=share * tf.reduce_sum(losses[0] + losses[1]) / 2,
        accuracy=share * tf.reduce_sum(tf.cast(hits, tf.float32)),
    )


def _place(images, everyone):
    """Returns the place of this replica's first pair among all, and the number of all."""
    rows = tf.shape(images)[0]
    if images.shape[0] is not None:  # Static sizes are the same everywhere.
        return rows * everyone.index, rows * everyone.count
    rows_of_all = everyone.gather(rows[tf.newaxis])
    return tf.reduce_sum(rows_of_all[: everyone.index]), tf.reduce_sum(rows_of_all)


def _equal_rows(rows, others):
    """Returns <bool>[B, P]: which of the rows [B, N] equals which of the others [P, N]."""
    # Position by position: a table [B, P, N] would be the largest tensor of the step.
    columns = zip(tf.unstack(rows, axis=1), tf.unstack(others, axis=1))
    return functools.reduce(
        tf.logical_and, (tf.equal(own[:, tf.newaxis], other) for own, other in columns)
    )


def _spread_evenly(positive):
    """Returns <float32>[B, P]: one over the number of a row's positives at each of them, else 0."""
    targets = tf.cast(positive, tf.float32)
    return targets / tf.reduce_sum(targets, axis=1, keepdims=True)
