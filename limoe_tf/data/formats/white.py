"""Transparent pixels on a ground: on white as viewers show them on a page, or on a colour."""

import tensorflow as tf

from limoe_tf.data.formats.apart import apart

# Pixels at a time, so that float32 values are never needed for a whole large image.
_BLOCK = 1 << 20


def on_white(image: tf.Tensor) -> tf.Tensor:
    """Composes an image with alpha on white.

    Args:
      image: <uint8>[H, W, 4]; colours are not premultiplied.

    Returns:
      <uint8>[H, W, 3], rounded.
    """
    return on_ground(image, tf.fill([3], 255.0))


@apart(tf.TensorSpec([None, None, 4], tf.uint8), tf.TensorSpec([3], tf.float32))
def on_ground(image: tf.Tensor, ground: tf.Tensor) -> tf.Tensor:
    """Composes an image with alpha on one colour.

    Args:
      image: <uint8>[H, W, 4]; colours are not premultiplied.
      ground: <float32>[3] in 0 to 255.

    Returns:
      <uint8>[H, W, 3], rounded.
    """
    pixels = tf.reshape(image, [-1, 4])
    num_blocks = tf.shape(pixels)[0] // _BLOCK
    blocks = tf.reshape(pixels[: num_blocks * _BLOCK], [num_blocks, _BLOCK, 4])
    spec = tf.TensorSpec([_BLOCK, 3], tf.uint8)
    blocks = tf.map_fn(
        lambda block: _blended(block, ground),
        blocks,
        fn_output_signature=spec,
        parallel_iterations=1,
    )
    rest = _blended(pixels[num_blocks * _BLOCK :], ground)
    flat = tf.concat([tf.reshape(blocks, [-1, 3]), rest], axis=0)
    return tf.reshape(flat, tf.concat([tf.shape(image)[:2], [3]], axis=0))


def _blended(pixels, ground):
    """Returns colour * alpha / 255 + ground * (1 - alpha / 255) of <uint8>[n, 4] as [n, 3]."""
    values = tf.cast(pixels, tf.float32)
    alpha = values[:, 3:] / 255
    return tf.cast(values[:, :3] * alpha + (ground + 0.5 - ground * alpha), tf.uint8)
