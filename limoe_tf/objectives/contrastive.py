"""The contrastive loss over the global batch.

Axis letters: B examples of a replica, Z embedding size.
"""

from typing import NamedTuple

import tensorflow as tf

from limoe_tf.mesh import replicas


class Contrast(NamedTuple):
    """Loss and accuracy of a replica's own rows, <float32>[]; their means over replicas count.

    Attributes:
      loss: half the cross-entropy of finding the text of an image, half of finding its image.
      accuracy: share of images whose own text is the nearest of the global batch.
    """

    loss: tf.Tensor
    accuracy: tf.Tensor


def contrastive(images, texts, logit_scale):
    """Contrasts each pair of this replica with all pairs of all replicas.

    Args:
      images: <float32>[B, Z] of unit length.
      texts: <float32>[B, Z] of unit length; row i belongs to row i of `images`.
      logit_scale: <float32>[] the inverse temperature 1/T.

    Returns:
      Contrast; its mean over replicas is that of the global batch, be they of one size or not.

    Reference: https://arxiv.org/abs/2206.02770, equation 1.
    """
    everyone = replicas.current()
    first, pairs = _place(images, everyone)
    labels = first + tf.range(tf.shape(images)[0])
    of_images = logit_scale * tf.matmul(images, everyone.gather(texts), transpose_b=True)
    of_texts = logit_scale * tf.matmul(texts, everyone.gather(images), transpose_b=True)
    losses = [
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        for logits in (of_images, of_texts)
    ]
    nearest = tf.argmax(of_images, axis=1, output_type=tf.int32)
    # Replicas with more pairs than others, as in a last batch, have more weight.
    share = tf.cast(everyone.count, tf.float32) / tf.cast(pairs, tf.float32)
    return Contrast(
        loss=share * tf.reduce_sum(losses[0] + losses[1]) / 2,
        accuracy=share * tf.reduce_sum(tf.cast(tf.equal(nearest, labels), tf.float32)),
    )


def _place(images, everyone):
    """Returns the place of this replica's first pair among all, and the number of all."""
    rows = tf.shape(images)[0]
    if images.shape[0] is not None:  # Static sizes are the same everywhere.
        return rows * everyone.index, rows * everyone.count
    rows_of_all = everyone.gather(rows[tf.newaxis])
    return tf.reduce_sum(rows_of_all[: everyone.index]), tf.reduce_sum(rows_of_all)
