"""JPEG: complete or a box of it, at the smallest scale that is large enough, upright."""

from collections.abc import Callable

import tensorflow as tf

from limoe_tf.data.formats import orientation as orientations
from limoe_tf.data.formats import rules
from limoe_tf.data.formats.apart import FILE, apart
from limoe_tf.data.formats.file_bytes import (
    bytes_at,
    contains,
    find_chunk,
    numbers_at,
    size_of,
    text_at,
)

_SCALES = (1, 2, 4, 8)
# EXIF and XMP data are in segments of this kind; these bytes do not occur in entropy-coded data.
_APP1 = b"\xff\xe1"
_EXIF_MARK = b"Exif\0\0"
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
# A marker which says that 255 is no ink, as Adobe's programs write CMYK; viewers read all such
# files so. If the file has one of its own, that one comes later and counts.
_ADOBE_CMYK = b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


def decode(encoded: tf.Tensor, *, size: int | None = None) -> tf.Tensor:
    """Decodes a JPEG; see `images.decode`."""
    encoded, stored_sides, turn = _opened(encoded)
    scale = _scale(lambda scale: -(-stored_sides // scale), size)
    stored = _switch(scale, lambda ratio: tf.io.decode_jpeg(encoded, channels=3, ratio=ratio))
    return orientations.upright(stored, turn)


def decode_box(
    encoded: tf.Tensor, draw_box: Callable[[tf.Tensor], tf.Tensor], *, size: int
) -> tf.Tensor:
    """Decodes a box of a JPEG that ends with its end marker.

    A file is refused for the same faults as by `decode`, wherever the box lies: the decoder reads
    down to the lowest row, but computes pixels only in the box's columns, from its top on.

    Args:
      encoded: <string>[] bytes of the file.
      draw_box: function of the upright image's height and width <int32>[2] to a box of it,
        <int32>[4]: top, left, height, width.
      size: the scale is the smallest at which both sides of the box are `size` pixels or more.

    Returns:
      <uint8>[H, W, 3].
    """
    encoded, stored_sides, turn = _opened(encoded)
    upright_sides = orientations.upright_sides(stored_sides, turn)
    box = draw_box(upright_sides)
    scale = _scale(lambda scale: box[2:] // scale, size)
    box = orientations.stored_box(box // scale, -(-upright_sides // scale), turn)
    top, left, height, width = tf.unstack(box)
    window = tf.stack([top, left, -(-stored_sides[0] // scale) - top, width])
    stored = _switch(
        scale,
        lambda ratio: tf.io.decode_and_crop_jpeg(encoded, window, channels=3, ratio=ratio),
    )
    return orientations.upright(stored[:height], turn)


def sides(encoded: tf.Tensor) -> tf.Tensor:
    """Returns <int64>[2] height and width as stored."""
    return tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.int64)


def _opened(encoded):
    """Returns a file that may be decoded, <int32>[2] its sides as stored, and its orientation."""
    shape = tf.io.extract_jpeg_shape(encoded)
    height, width, channels = tf.unstack(tf.cast(shape, tf.int64), 3)
    shape = rules.within_limits(shape, height, width)
    encoded, turn = tf.cond(
        contains(encoded, _APP1) | (channels == 4),
        lambda: _prepared(encoded, channels == 4),
        lambda: (tf.identity(encoded), tf.constant(0, tf.int64)),
    )
    return encoded, shape[:2], turn


@apart(FILE, tf.TensorSpec([], tf.bool))
def _prepared(encoded, is_cmyk):
    turn = orientations.stated(_segment(encoded, _EXIF_MARK), _segment(encoded, _XMP_MARK))
    as_adobe = tf.strings.join([_ADOBE_CMYK, text_at(encoded, 2, size_of(encoded))])
    return tf.where(is_cmyk, as_adobe, encoded), turn


def _scale(sides_at, size):
    """Returns the largest of the scales that leaves both sides `size` pixels."""
    if size is None:
        return tf.constant(1)
    scales = tf.constant(_SCALES)[:, tf.newaxis]
    # Scale 1 counts always. The sides fall as the scale rises.
    fits = tf.reduce_all(sides_at(scales) >= size, axis=1) | (scales[:, 0] == 1)
    return tf.reduce_max(tf.where(fits, scales[:, 0], 1))


def _switch(scale, decode_at):
    """Decodes with the scale as a constant, as the decoder wants it."""
    branches = [lambda ratio=ratio: decode_at(ratio) for ratio in _SCALES]
    number = tf.reduce_sum(tf.cast(scale > _SCALES, tf.int32))
    return tf.switch_case(number, branches)


@apart(FILE, FILE)
def _segment(encoded, mark):
    """Returns the data of the first APP1 segment with a mark in front; empty if there is none."""
    length = size_of(mark)
    start = tf.strings.join([_APP1, mark])

    def wanted(place):
        head = [text_at(encoded, place, 2), text_at(encoded, place + 4, length)]
        return tf.strings.join(head) == start

    place = find_chunk(
        encoded, 2, mark, wanted=wanted, following=lambda place: _following(encoded, place)
    )
    (data_length,) = numbers_at(encoded, place + 2, (0, 2), order="big")
    return text_at(encoded, place + 4, tf.maximum(data_length - 2, 0))


def _following(encoded, place):
    """Returns the place of the next segment; the end of the file where the coded image begins."""
    first, kind, high, low = tf.unstack(bytes_at(encoded, place, 4), 4)
    is_mark = first == 0xFF
    # Between segments there may be 0xFF any number of times, and bytes that belong to nothing.
    alone = (kind == 0x00) | (kind == 0x01) | ((kind >= 0xD0) & (kind <= 0xD8))
    step = tf.where(alone, tf.constant(2, tf.int64), tf.maximum(2 + 256 * high + low, 2))
    step = tf.where(is_mark & (kind != 0xFF), step, 1)
    is_end = is_mark & ((kind == 0xD9) | (kind == 0xDA))
    return tf.where(is_end, size_of(encoded), place + step)
