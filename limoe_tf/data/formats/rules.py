"""What every image must keep to, whatever its format, and how a refused one says why."""

import re

import tensorflow as tf

# So that a small file cannot require gigabytes: this is 300 MB when decoded.
MAX_PIXELS = 100_000_000
NO_SIZE = "image without a valid size"
SINGLE_PIXEL = "image of a single pixel"
TOO_LARGE = f"image of more than {MAX_PIXELS} pixels"
_MARK = "Image refused:"
# Headers may claim sides of up to 2**32 - 1; their product would not fit int64.
_LARGEST_SIDE = 2**31


def require(value: tf.Tensor, is_valid: tf.Tensor, reason: str) -> tf.Tensor:
    """Returns `value`; at run time, refuses the image with a reason if it is not valid.

    Args:
      value: a tensor.
      is_valid: <bool>[].
      reason: some words, without a full stop or quotation marks.

    Raises:
      tf.errors.InvalidArgumentError: with a message in which `reason_in` finds the reason.
    """
    # tf.debugging.Assert would add a conditional and two functions to the graph.
    check = tf.raw_ops.Assert(condition=is_valid, data=[f"{_MARK} {reason}."])
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(value)


def within_limits(value: tf.Tensor, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Returns `value`; refuses an image of no or a single pixel, and one of too many.

    Args:
      value: a tensor, on which decoding depends.
      height: <int64>[] according to the header.
      width: <int64>[] according to the header.
    """
    pixels = num_pixels(height, width)
    value = require(value, pixels > 0, NO_SIZE)
    value = require(value, pixels <= MAX_PIXELS, TOO_LARGE)
    return require(value, pixels > 1, SINGLE_PIXEL)


def num_pixels(height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """Returns <int64>[] height times width, at most 2**62."""
    return tf.minimum(height, _LARGEST_SIDE) * tf.minimum(width, _LARGEST_SIDE)


def reason_in(message: str) -> str | None:
    """Returns the reason in the message of an error, or None if a decoder has raised it."""
    found = re.search(rf"{_MARK} ([^.']+)\.", message)
    return found[1] if found else None
