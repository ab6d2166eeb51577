"""The sigmoid loss over the global batch, computed against some of its texts at a time.

Axis letters: B examples of a replica, P pairs of the global batch, C texts of a chunk, N tokens of
a text, Z embedding size.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from limoe_tf.custom_gradient import custom_gradient
from limoe_tf.mesh import replicas
from limoe_tf.objectives.contrastive import Contrast, equal_rows, offset


def sigmoid_contrastive(
    images: tf.Tensor,
    texts: tf.Tensor,
    logit_scale: tf.Tensor,
    logit_bias: tf.Tensor,
    *,
    tokens: tf.Tensor | None = None,
    num_chunks: int = 1,
) -> Contrast:
    """Asks of each image of this replica and each text of all replicas whether they are a pair.

    The loss is the sum of -log sigmoid(z (t x y + b)) over all P x P pairs of an image x and a text
    y, divided by P; z is 1 for positives and -1 for all others. Logits are computed for one chunk
    of texts at a time, and again for the gradient: no more than [B, C] of them are in memory. A
    chunk is the texts of one replica, as in the paper, or a part of them.

    Args:
      images: <float32>[B, Z] of unit length.
      texts: <float32>[B, Z] of unit length; row i belongs to row i of `images`.
      logit_scale: <float32>[], t.
      logit_bias: <float32>[], b.
      tokens: <int32>[B, N] of the texts, padding included, to treat equal ones as positives of each
        other's images; None, as in the paper: only a pair is positive.
      num_chunks: parts of a replica's texts that are computed one after another. Only where B is
        static and this divides it; otherwise more texts are computed at once, up to all of them.

    Returns:
      Contrast; its mean over replicas is that of the global batch, also where sizes differ.

    Reference: https://arxiv.org/abs/2303.15343, algorithm 1 and section 3.3 (chunks).
    """
    context = replicas.current()
    first, pairs = offset(images, context)
    rows = _Rows(
        place=first + tf.range(tf.shape(images)[0]),
        tokens=tokens,
        tokens_of_all=None if tokens is None else context.gather(tokens),
        chunks=_num_chunks(images, context.count, num_chunks),
    )
    loss, hits = _summed(images, context.gather(texts), logit_scale, logit_bias, rows)
    # Replicas with more pairs than others, as in a last batch, get more weight.
    share = tf.cast(context.count, tf.float32) / tf.cast(pairs, tf.float32)
    return Contrast(loss=share * loss, accuracy=share * hits)


class _Rows(NamedTuple):
    """What decides which texts are positives of this replica's images.

    Attributes:
      place: <int32>[B] of the pairs in the global batch.
      tokens: <int32>[B, N] of their texts; None if only a pair is positive.
      tokens_of_all: <int32>[P, N]; None as well.
      chunks: number of chunks of the P texts.
    """

    place: tf.Tensor
    tokens: tf.Tensor | None
    tokens_of_all: tf.Tensor | None
    chunks: int

    def signs(self, number: int | tf.Tensor, count: int | tf.Tensor) -> tf.Tensor:
        """Returns <float32>[B, C] of a chunk of `count` texts: 1 for positives, else -1."""
        if self.tokens is None:
            positive = self.place[:, tf.newaxis] == number * count + tf.range(count)
        else:
            positive = equal_rows(self.tokens, self.chunk(self.tokens_of_all, number))
        return tf.where(positive, 1.0, -1.0)

    def chunk(self, rows: tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
        """Returns one chunk [C, ...] of <...>[P, ...]."""
        if self.chunks == 1:
            return rows
        size = rows.shape[0] // self.chunks
        return tf.gather(tf.reshape(rows, [self.chunks, size, *rows.shape[1:]]), number)


def _num_chunks(images, count, num_chunks):
    size = images.shape[0]
    return 1 if size is None else count * math.gcd(size, num_chunks)


def _summed(images, texts, scale, bias, rows):
    """Returns the sum of all losses of these images, and how many are nearest to a positive."""

    # A loop's own gradient would keep the logits of every chunk.
    @custom_gradient
    def sums(*sources):
        return _forward(*sources, rows), lambda upstream, _: _backward(*sources, rows, upstream)

    return sums(images, texts, scale, bias)


def _logits(images, texts, scale, bias, rows, number):
    """Returns a chunk's texts, cosines <float32>[B, C], logits, and signs."""
    chunk = rows.chunk(texts, number)
    cosines = tf.matmul(images, chunk, transpose_b=True)
    return chunk, cosines, scale * cosines + bias, rows.signs(number, tf.shape(chunk)[0])


def _forward(images, texts, scale, bias, rows):
    def body(number, loss, best, hit):
        _, _, logits, signs = _logits(images, texts, scale, bias, rows, number)
        loss += tf.reduce_sum(tf.math.softplus(-signs * logits))
        nearest = tf.argmax(logits, axis=1, output_type=tf.int32)
        found = tf.reduce_max(logits, axis=1)
        of_chunk = tf.gather(signs, nearest, batch_dims=1) > 0
        # The first of several that are equally near, as `argmax` of all would take.
        hit = tf.where(found > best, of_chunk, hit)
        return number + 1, loss, tf.maximum(found, best), hit

    best = tf.fill(tf.shape(rows.place), -math.inf)
    start = (tf.constant(0), tf.zeros([]), best, tf.zeros(tf.shape(rows.place), tf.bool))
    _, loss, _, hit = _loop(body, start, rows.chunks)
    return loss, tf.reduce_sum(tf.cast(hit, tf.float32))


def _backward(images, texts, scale, bias, rows, upstream):
    def body(number, to_images, to_texts, to_scale, to_bias):
        chunk, cosines, logits, signs = _logits(images, texts, scale, bias, rows, number)
        slopes = -upstream * signs * tf.sigmoid(-signs * logits)
        to_texts = to_texts.write(number, scale * tf.matmul(slopes, images, transpose_a=True))
        return (
            number + 1,
            to_images + scale * tf.matmul(slopes, chunk),
            to_texts,
            to_scale + tf.reduce_sum(slopes * cosines),
            to_bias + tf.reduce_sum(slopes),
        )

    size = None if texts.shape[0] is None else texts.shape[0] // rows.chunks
    parts = tf.TensorArray(tf.float32, rows.chunks, element_shape=[size, texts.shape[1]])
    start = (tf.constant(0), tf.zeros_like(images), parts, tf.zeros([]), tf.zeros([]))
    _, to_images, parts, to_scale, to_bias = _loop(body, start, rows.chunks)
    return to_images, tf.reshape(parts.stack(), tf.shape(texts)), to_scale, to_bias


def _loop(body: Callable, start: tuple, times: int) -> tuple:
    """Runs `body` that many times, one after another."""
    if times == 1:
        return body(*start)
    return tf.while_loop(
        lambda *_: True, body, start, parallel_iterations=1, maximum_iterations=times
    )
