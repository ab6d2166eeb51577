"""The contrastive loss over the global batch.

Axis letters: B examples of a replica, P pairs of the global batch, N tokens of a text, Z embedding
size.
"""

import functools
from typing import NamedTuple

import tensorflow as tf

from limoe_tf.mesh import replicas


class Contrast(NamedTuple):
    """Loss and accuracy, <float32>[] each; the global batch's are the means over replicas.

    Attributes:
      loss: mean of the image-to-text and the text-to-image cross-entropies.
      accuracy: share of images whose nearest text of the global batch is a positive, such as their
        own.
    """

    loss: tf.Tensor
    accuracy: tf.Tensor


def contrastive(
    images: tf.Tensor,
    texts: tf.Tensor,
    logit_scale: tf.Tensor,
    *,
    tokens: tf.Tensor | None = None,
) -> Contrast:
    """Contrasts each pair of this replica with all pairs of all replicas.

    An image and a text are positives if they are a pair. If texts are class names or keywords, a
    batch has many equal ones, which would be false negatives: with `tokens`, pairs of equal texts
    are positives of each other, too, and the target of a row is uniform over its positives.

    Args:
      images: <float32>[B, Z] of unit length.
      texts: <float32>[B, Z] of unit length; row i belongs to row i of `images`.
      logit_scale: <float32>[] the inverse temperature 1/T.
      tokens: <int32>[B, N] of the texts, padding included, to treat equal ones as positives; None,
        as in the paper: only a pair is positive.

    Returns:
      Contrast; its mean over replicas is that of the global batch, also where sizes differ.

    Reference: https://arxiv.org/abs/2206.02770, equation 1.
    """
    context = replicas.current()
    first, pairs = offset(images, context)
    of_images = logit_scale * tf.matmul(images, context.gather(texts), transpose_b=True)
    of_texts = logit_scale * tf.matmul(texts, context.gather(images), transpose_b=True)
    nearest = tf.argmax(of_images, axis=1, output_type=tf.int32)
    if tokens is None:
        labels = first + tf.range(tf.shape(images)[0])
        hits = tf.equal(nearest, labels)
        losses = [
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            for logits in (of_images, of_texts)
        ]
    else:
        positive = equal_rows(tokens, context.gather(tokens))
        hits = tf.gather(positive, nearest, batch_dims=1)
        targets = _uniform(positive)
        losses = [
            tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits)
            for logits in (of_images, of_texts)
        ]
    # Replicas with more pairs than others, as in a last batch, get more weight.
    share = tf.cast(context.count, tf.float32) / tf.cast(pairs, tf.float32)
    return Contrast(
        loss=share * tf.reduce_sum(losses[0] + losses[1]) / 2,
        accuracy=share * tf.reduce_sum(tf.cast(hits, tf.float32)),
    )


def offset(
    images: tf.Tensor, context: replicas.OneReplica | replicas.ManyReplicas
) -> tuple[int | tf.Tensor, int | tf.Tensor]:
    """Returns the index of a replica's first pair in the global batch, and that batch's size.

    Args:
      images: [B, ...] of the replica.
      context: of the replica.
    """
    rows = tf.shape(images)[0]
    if images.shape[0] is not None:  # Static sizes are the same everywhere.
        return rows * context.index, rows * context.count
    rows_of_all = context.gather(rows[tf.newaxis])
    return tf.reduce_sum(rows_of_all[: context.index]), tf.reduce_sum(rows_of_all)


def equal_rows(rows: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Returns <bool>[B, P]: whether row i of `rows` [B, N] equals row j of `others` [P, N]."""
    # Position by position: a table [B, P, N] would be the largest tensor of the step.
    columns = zip(tf.unstack(rows, axis=1), tf.unstack(others, axis=1))
    return functools.reduce(
        tf.logical_and, (tf.equal(own[:, tf.newaxis], other) for own, other in columns)
    )


def _uniform(positive):
    """Returns <float32>[B, P]: in each row, the uniform distribution over the positives."""
    targets = tf.cast(positive, tf.float32)
    return targets / tf.reduce_sum(targets, axis=1, keepdims=True)
