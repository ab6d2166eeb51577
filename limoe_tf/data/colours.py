"""Colours drawn for pictures with alpha: of the ground and, where a picture has one, of that.

An icon is black on white wherever its text says nothing else. With drawn colours a model learns
the shape, whatever the colours, and with named ones also what the colours are called.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from limoe_tf.data import images
from limoe_tf.data.formats import png
from limoe_tf.data.formats.apart import apart
from limoe_tf.data.formats.white import on_ground

MODES = ("off", "silent", "named")
VALUES = {
    "black": (25, 25, 28),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "red": (215, 30, 30),
    "orange": (245, 130, 20),
    "yellow": (246, 222, 30),
    "green": (35, 150, 60),
    "cyan": (25, 195, 210),
    "blue": (35, 70, 215),
    "purple": (120, 40, 150),
    "pink": (245, 95, 170),
    "brown": (120, 70, 30),
}
# Of the ground to what is on it, as WCAG 2 asks of pictures.
LEAST_CONTRAST = 3.0
# Grounds that are drawn for one picture: the first with enough contrast is taken. If none has it,
# white or black has: one of their contrasts to any colour is at least the square root of 21.
_NUM_GROUNDS = 16
_LAST_GROUNDS = ((255.0, 255.0, 255.0), (0.0, 0.0, 0.0))
_TABLE = np.array(list(VALUES.values()), np.float32)
# What the seed of an image is folded with, so that its box and flip stay what they are.
_FOLD = 0xC0105


def training_image(
    encoded: tf.Tensor,
    seed: tf.Tensor,
    *,
    size: int,
    crop: str = "resize",
    crop_area: Sequence[float] = images.CROP_AREA,
    flip: bool = False,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the image of `images.training_image`, a PNG with alpha in drawn colours.

    Other files, and PNGs without a transparent pixel, are as they are without drawn colours; box
    and flip are the same for all.

    Args:
      encoded: <string>[] bytes of a file that `images.decode` takes.
      seed: <int64>[2] decides the colours, the box and the flip.
      size: see `images.training_image`, as all others.

    Returns:
      <uint8>[size, size, 3], and <string>[] the word for the drawn foreground, or "".
    """
    options = {"size": size, "crop": crop, "crop_area": crop_area, "flip": flip}

    def drawn():
        colour_seed = tf.cast(tf.random.fold_in(seed, _FOLD), tf.int64)
        image, word = in_drawn_colours(png.decode_with_alpha(encoded), colour_seed)
        return images.training_size(image, seed, **options), word

    def unchanged():
        return images.training_image(encoded, seed, **options), tf.constant("")

    return tf.cond(png.has_alpha(encoded), drawn, unchanged)


@apart(tf.TensorSpec([None, None, 4], tf.uint8), tf.TensorSpec([2], tf.int64))
def in_drawn_colours(image: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Composes an image on a drawn ground, in a drawn colour if all that is visible has one colour.

    The contrast of the ground to the drawn colour, or else to the mean of what is visible, is at
    least `LEAST_CONTRAST`. An image without a transparent pixel keeps all its pixels.

    Args:
      image: <uint8>[H, W, 4]; colours are not premultiplied.
      seed: <int64>[2] decides both colours.

    Returns:
      <uint8>[H, W, 3], and <string>[] the word for the colour of the foreground; "" if that is not
      drawn.
    """
    ground_seed, foreground_seed = tf.unstack(tf.random.split(seed))
    drawn = tf.random.stateless_uniform([], foreground_seed, 0, len(VALUES), tf.int32)
    colour = tf.gather(_TABLE, drawn)
    is_opaque = tf.reduce_all(image[..., 3] == 255)
    is_drawn = has_one_colour(image) & ~is_opaque
    ground = _ground(tf.where(is_drawn, colour, _mean_colour(image)), ground_seed)
    whole = tf.broadcast_to(tf.cast(colour, tf.uint8), tf.shape(image[..., :3]))
    foreground = tf.where(is_drawn, whole, image[..., :3])
    composed = on_ground(tf.concat([foreground, image[..., 3:]], axis=-1), ground)
    return composed, tf.where(is_drawn, tf.gather(list(VALUES), drawn), "")


def has_one_colour(image: tf.Tensor) -> tf.Tensor:
    """Returns <bool>[] whether all that is visible of <uint8>[H, W, 4] has one colour.

    That of a pixel counts by its alpha: what is nearly transparent cannot hold its colour exactly.
    """
    pixels = tf.reshape(tf.cast(image, tf.int32), [-1, 4])
    colours, alpha = pixels[:, :3], pixels[:, 3:]
    one = tf.gather(colours, tf.argmax(alpha[:, 0]))
    return tf.reduce_all(tf.abs(colours - one) * alpha <= 255)


def contrast(colour: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Returns the contrast of WCAG 2 between colours, <float32>[...] from 1 to 21.

    Args:
      colour: <float32>[..., 3], sRGB from 0 to 255.
      other: of a shape that goes with it.
    """
    some, others = _luminance(colour) + 0.05, _luminance(other) + 0.05
    return tf.maximum(some, others) / tf.minimum(some, others)


def _luminance(colour):
    share = colour / 255
    linear = tf.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return tf.tensordot(linear, [0.2126, 0.7152, 0.0722], 1)


def _mean_colour(image):
    pixels = tf.cast(tf.reshape(image, [-1, 4]), tf.float32)
    alpha = pixels[:, 3:]
    total = tf.reduce_sum(alpha)
    return tf.math.divide_no_nan(tf.reduce_sum(pixels[:, :3] * alpha, axis=0), total)


def _ground(colour, seed):
    """Draws a ground <float32>[3], in whole numbers, with contrast to a colour <float32>[3]."""
    grounds = tf.random.stateless_uniform([_NUM_GROUNDS, 3], seed, 0, 256, tf.int32)
    grounds = tf.concat([tf.cast(grounds, tf.float32), _LAST_GROUNDS], axis=0)
    return tf.gather(grounds, tf.argmax(contrast(grounds, colour) >= LEAST_CONTRAST))
