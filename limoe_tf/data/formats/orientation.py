"""The orientation that a file states, and the image turned by it.

An orientation is a number from 1, upright as stored, to 8; 0 if a file states none. From 5 on rows
and columns are exchanged.
"""

import numpy as np
import tensorflow as tf

from limoe_tf.data.formats.apart import FILE, apart
from limoe_tf.data.formats.file_bytes import bytes_at, text_at, weights

# Some programs write it twice.
_EXIF_MARKS = rb"^(Exif\x00\x00){1,2}"
_XMP_PATTERN = rb'(?s)^\C*?tiff:Orientation(?:="|>)([0-9])\C*$'
_TAG = 0x0112
_SHORT_TYPES, _LONG_TYPES = (3, 8), (4, 9)
# An entry of EXIF data: tag, type, number of values, and a value of 2 bytes or of 4.
_ENTRY_BYTES = 12
_ENTRY = ((0, 2), (2, 2), (4, 4), (8, 2), (8, 4))
# What is reversed once rows and columns are exchanged, by orientation: rows, columns.
_REVERSED = np.zeros([9, 2], bool)
_REVERSED[[3, 4, 7, 8], 0] = True
_REVERSED[[2, 3, 6, 7], 1] = True


@apart(FILE, FILE)
def stated(exif: tf.Tensor, xmp: tf.Tensor) -> tf.Tensor:
    """Returns <int64>[] the orientation in EXIF data or, if they have none, in XMP data.

    Args:
      exif: <string>[] with or without its mark; empty if there are none.
      xmp: <string>[]; empty if there are none.
    """
    exif = tf.strings.regex_replace(exif, _EXIF_MARKS, b"")
    letters = text_at(exif, 0, 2)
    is_little = letters == b"II"
    first = _number_at(exif, 4, 4, is_little)
    count = _number_at(exif, first, 2, is_little)
    # A row of zeros in front: the place of an entry is 0 if there is none.
    entries = tf.strings.join([bytes(_ENTRY_BYTES), text_at(exif, first + 2, _ENTRY_BYTES * count)])
    is_exif = is_little | (letters == b"MM")
    found = _first_value(tf.io.decode_raw(entries, tf.uint8), is_little) * tf.cast(
        is_exif, tf.int64
    )
    return tf.where(found > 0, found, _of_xmp(xmp))


def _number_at(exif, start, width, is_little):
    table = [weights([(0, width)], width, order=order)[0] for order in ("little", "big")]
    return tf.reduce_sum(bytes_at(exif, start, width) * tf.where(is_little, *table))


def _first_value(entries, is_little):
    """Returns the orientation in the first entry of its tag; 1 if its type or value is wrong."""
    num_rows = tf.size(entries) // _ENTRY_BYTES
    entries = tf.reshape(entries[: num_rows * _ENTRY_BYTES], [-1, _ENTRY_BYTES])
    table = [weights(_ENTRY, _ENTRY_BYTES, order=order) for order in ("little", "big")]
    fields = tf.matmul(tf.cast(entries, tf.int64), tf.where(is_little, *table), transpose_b=True)
    place = tf.argmax(fields[:, 0] == _TAG, output_type=tf.int32)  # 0 if there is none.
    _, kind, count, short, long = tf.unstack(fields[place])
    is_short, is_long = (tf.reduce_any(kind == types) for types in (_SHORT_TYPES, _LONG_TYPES))
    value = tf.where(is_short, short, long)
    is_valid = (is_short | is_long) & (count == 1) & (value >= 1) & (value <= 8)
    return tf.where(place == 0, tf.constant(0, tf.int64), tf.where(is_valid, value, 1))


def _of_xmp(xmp):
    digit = tf.strings.regex_replace(xmp, _XMP_PATTERN, r"\1")
    is_valid = tf.strings.regex_full_match(digit, b"[1-8]")
    return tf.where(is_valid, bytes_at(digit, 0, 1)[0] - ord("0"), 0)


def upright(image: tf.Tensor, orientation: tf.Tensor, *, channels: int = 3) -> tf.Tensor:
    """Turns a stored image as viewers show it.

    Args:
      image: <uint8>[H, W, C].
      orientation: <int64>[] 0 to 8.
      channels: C.

    Returns:
      <uint8>[H, W, C], or [W, H, C] from orientation 5 on.
    """
    # Where nothing is to be turned these two return what they are given.
    image = tf.transpose(image, tf.where(orientation >= 5, [1, 0, 2], [0, 1, 2]))
    image = tf.reverse(image, tf.where(tf.gather(_REVERSED, orientation))[:, 0])
    return tf.ensure_shape(image, [None, None, channels])


def upright_sides(sides: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns <int32>[2] height and width of the upright image from those of the stored one."""
    return tf.where(orientation >= 5, sides[::-1], sides)


def stored_box(box: tf.Tensor, sides: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Returns where a box of the upright image lies in the stored one.

    Args:
      box: <int32>[4] top, left, height, width.
      sides: <int32>[2] height and width of the upright image.
      orientation: <int64>[] 0 to 8.

    Returns:
      <int32>[4] top, left, height, width.
    """
    start, extent = box[:2], box[2:]
    start = tf.where(tf.gather(_REVERSED, orientation), sides - start - extent, start)
    start, extent = (upright_sides(part, orientation) for part in (start, extent))
    return tf.concat([start, extent], axis=0)
