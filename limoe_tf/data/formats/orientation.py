"""How a picture is turned: the orientation that a file states, and the picture turned by it.

An orientation is a number from 1, as stored, to 8; 0 where a file states none. From 5 on rows and
columns change places.
"""

import tensorflow as tf

from limoe_tf.data.formats.file_bytes import big_endian, bytes_at, little_endian, text_at

EXIF_MARK = b"Exif\0\0"
XMP_ORIENTATION = b"tiff:Orientation"
_TAG = 0x0112
_SHORTS, _LONGS = (3, 8), (4, 9)
_ENTRY_BYTES = 12
_XMP_PATTERN = rb'(?s)^\C*?tiff:Orientation(?:="|>)([0-9])\C*$'
# After rows and columns have changed places where they must, these turn over.
_UPSIDE_DOWN = (3, 4, 7, 8)
_MIRRORED = (2, 3, 6, 7)


def of_exif(file, start, length):
    """Returns <int64>[] the orientation that EXIF data state.

    Args:
      file: <string>[] that holds them.
      start: <int64>[] place of their first byte; `EXIF_MARK` may stand before them.
      length: <int64>[] number of their bytes.
    """
    data = text_at(file, start, length)
    for _ in range(2):  # Some writers put the mark there twice.
        is_mark = tf.cast(text_at(data, 0, len(EXIF_MARK)) == EXIF_MARK, tf.int64)
        data = text_at(data, len(EXIF_MARK) * is_mark, length)
    head = bytes_at(data, 0, 8)
    is_little = (head[0] == ord("I")) & (head[1] == ord("I"))
    is_big = (head[0] == ord("M")) & (head[1] == ord("M"))

    def number(values):
        return tf.where(is_little, little_endian(values), big_endian(values))

    first = number(head[4:8])
    count = number(bytes_at(data, first, 2)) * tf.cast(is_little | is_big, tf.int64)
    entries = text_at(data, first + 2, _ENTRY_BYTES * count)
    return _of_entries(entries, is_little)


def _of_entries(entries, is_little):
    """Returns the orientation of the last entry of its tag; one of a wrong kind or value is 1."""
    entries = tf.io.decode_raw(entries, tf.uint8)
    entries = entries[: tf.size(entries) // _ENTRY_BYTES * _ENTRY_BYTES]
    entries = tf.cast(tf.reshape(entries, [-1, _ENTRY_BYTES]), tf.int64)
    low, high = tf.cast(is_little, tf.int64), tf.cast(~is_little, tf.int64)
    two = low * tf.constant([1, 256], tf.int64) + high * tf.constant([256, 1], tf.int64)
    found = tf.boolean_mask(entries, tf.reduce_sum(entries[:, :2] * two, axis=1) == _TAG)
    # A row of zeros in front, so that there is a last one.
    last = tf.concat([tf.zeros([1, _ENTRY_BYTES], tf.int64), found], axis=0)[-1]

    def number(values):
        return tf.where(is_little, little_endian(values), big_endian(values))

    kind = number(last[2:4])
    is_short = tf.reduce_any(kind == _SHORTS)
    is_number = (is_short | tf.reduce_any(kind == _LONGS)) & (number(last[4:8]) == 1)
    value = tf.where(is_short, number(last[8:10]), number(last[8:12]))
    value = tf.where(is_number & (value >= 1) & (value <= 8), value, 1)
    return tf.where(tf.shape(found)[0] > 0, value, 0)


def of_xmp(text):
    """Returns <int64>[] the orientation that XMP data <string>[] state."""
    digit = tf.strings.regex_replace(text, _XMP_PATTERN, r"\1")
    value = bytes_at(digit, 0, 1)[0] - ord("0")
    is_one = (tf.strings.length(digit) == 1) & (value >= 1) & (value <= 8)
    return tf.where(is_one, value, 0)


def upright(image, orientation):
    """Turns a stored image as viewers show it.

    Args:
      image: <uint8>[H, W, 3].
      orientation: <int64>[] 0 to 8.

    Returns:
      <uint8>[H, W, 3], or [W, H, 3] from orientation 5 on.
    """

    def turned():
        image_now = tf.cond(
            orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: tf.identity(image)
        )
        over = tf.stack([_is_among(_UPSIDE_DOWN, orientation), _is_among(_MIRRORED, orientation)])
        return tf.reverse(image_now, tf.cast(tf.where(over)[:, 0], tf.int32))

    turned_image = tf.cond(orientation > 1, turned, lambda: tf.identity(image))
    return tf.ensure_shape(turned_image, [None, None, 3])


def upright_sides(sides, orientation):
    """Returns <int32>[2] height and width of the upright image, of those of the stored one."""
    return tf.where(orientation >= 5, sides[::-1], sides)


def stored_box(box, sides, orientation):
    """Returns where a box of the upright image lies in the stored one.

    Args:
      box: <int32>[4] top, left, height, width.
      sides: <int32>[2] height and width of the upright image.
      orientation: <int64>[] 0 to 8.

    Returns:
      <int32>[4] top, left, height, width.
    """
    start, extent = box[:2], box[2:]
    over = tf.stack([_is_among(_UPSIDE_DOWN, orientation), _is_among(_MIRRORED, orientation)])
    start = tf.where(over, sides - start - extent, start)
    stored = tf.stack([start, extent])
    return tf.reshape(tf.where(orientation >= 5, stored[:, ::-1], stored), [4])


def _is_among(some, orientation):
    return tf.reduce_any(orientation == tf.constant(some, tf.int64))
