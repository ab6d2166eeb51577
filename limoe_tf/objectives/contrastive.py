"""The contrastive loss over the global batch.

Axis letters: B examples of a replica, Z embedding size.
"""

from typing import NamedTuple

import tensorflow as tf

from limoe_tf.mesh import replicas


class Contrast(NamedTuple):
    """Loss and accuracy of one batch; each the mean over a replica's own rows, <float32>[].

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
      Contrast; its mean over replicas is that of the global batch.

    Reference: https://arxiv.org/abs/2206.02770, equation 1.
    """
    everyone = replicas.current()
    rows = tf.shape(images)[0]
    labels = tf.range(rows) + rows * everyone.index
    of_images = logit_scale * tf.matmul(images, everyone.gather(texts), transpose_b=True)
    of_texts = logit_scale * tf.matmul(texts, everyone.gather(images), transpose_b=True)
    losses = [
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        for logits in (of_images, of_texts)
    ]
    nearest = tf.argmax(of_images, axis=1, output_type=tf.int32)
    return Contrast(
        loss=tf.reduce_mean(losses[0] + losses[1]) / 2,
        accuracy=tf.reduce_mean(tf.cast(tf.equal(nearest, labels), tf.float32)),
    )
