"""What every picture must keep to, whatever its format, and how a refused one says why."""

import re

import tensorflow as tf

# So that a small file cannot claim gigabytes: 300 MB once decoded.
MAX_PIXELS = 100_000_000
NO_SIZE = "image whose size cannot be read"
SINGLE_PIXEL = "image of a single pixel"
TOO_LARGE = f"image of more than {MAX_PIXELS} pixels"
_MARK = "Picture refused:"
# Files may claim sides of up to 2**32 - 1; products of larger numbers leave int64.
_LARGEST_SIDE = 2**31


def require(value, is_sound, reason):
    """Returns `value`; where it runs, refuses the picture with a reason if it is not sound.

    Args:
      value: a tensor.
      is_sound: <bool>[].
      reason: some words, without a full stop or quotation marks.

    Raises:
      tf.errors.InvalidArgumentError: with a message of which `reason_in` returns the reason.
    """
    with tf.control_dependencies([tf.debugging.Assert(is_sound, [f"{_MARK} {reason}."])]):
        return tf.identity(value)


def within_limits(value, height, width):
    """Returns `value`; refuses pictures of no or a single pixel, and of too many.

    Args:
      value: a tensor, on which decoding depends.
      height: <int64>[] as the file claims.
      width: <int64>[] as the file claims.
    """
    pixels = num_pixels(height, width)
    value = require(value, pixels > 0, NO_SIZE)
    value = require(value, pixels <= MAX_PIXELS, TOO_LARGE)
    return require(value, pixels > 1, SINGLE_PIXEL)


def num_pixels(height, width):
    """Returns <int64>[] pixels of an image; 2**62 at most."""
    return tf.minimum(height, _LARGEST_SIDE) * tf.minimum(width, _LARGEST_SIDE)


def reason_in(message):
    """Returns the reason in the message of an error, or None if a decoder has raised it."""
    found = re.search(rf"{_MARK} ([^.']+)\.", message)
    return found and found[1]
