"""Transparent pixels on white, as viewers show them on a page."""

import tensorflow as tf

from limoe_tf.data.formats.apart import apart

# Pixels at a time, so that float32 values are never needed for a whole large image.
_BLOCK = 1 << 20


@apart(tf.TensorSpec([None, None, 4], tf.uint8))
def on_white(image: tf.Tensor) -> tf.Tensor:
    """Composes an image with alpha on white.

    Args:
      image: <uint8>[H, W, 4]; colours are not premultiplied.

    Returns:
      <uint8>[H, W, 3], rounded.
    """
    pixels = tf.reshape(image, [-1, 4])
    num_blocks = tf.shape(pixels)[0] // _BLOCK
    blocks = tf.reshape(pixels[: num_blocks * _BLOCK], [num_blocks, _BLOCK, 4])
    spec = tf.TensorSpec([_BLOCK, 3], tf.uint8)
    blocks = tf.map_fn(_blended, blocks, fn_output_signature=spec, parallel_iterations=1)
    rest = _blended(pixels[num_blocks * _BLOCK :])
    flat = tf.concat([tf.reshape(blocks, [-1, 3]), rest], axis=0)
    return tf.reshape(flat, tf.concat([tf.shape(image)[:2], [3]], axis=0))


def _blended(pixels):
    """Returns colour * alpha / 255 + 255 - alpha of <uint8>[n, 4] as <uint8>[n, 3]."""
    values = tf.cast(pixels, tf.float32)
    alpha = values[:, 3:] / 255
    return tf.cast(values[:, :3] * alpha + (255.5 - 255 * alpha), tf.uint8)
