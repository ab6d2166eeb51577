"""Transparent pixels on white, as viewers show them on a page."""

import tensorflow as tf

# Pixels at a time, so that their numbers are never all there as float32.
_BLOCK = 1 << 20


def on_white(image):
    """Lays an image with alpha on white.

    Args:
      image: <uint8>[H, W, 4]; colours are not multiplied with alpha.

    Returns:
      <uint8>[H, W, 3] each value rounded.
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
