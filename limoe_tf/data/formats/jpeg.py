"""JPEG: whole or a box of it, at the smallest scale that is large enough, upright."""

import tensorflow as tf

from limoe_tf.data.formats import orientation as orientations
from limoe_tf.data.formats import rules
from limoe_tf.data.formats.file_bytes import (
    big_endian,
    bytes_at,
    contains,
    find_chunk,
    size_of,
    text_at,
)

_SCALES = (1, 2, 4, 8)
_FIRST_SEGMENT = 2
# EXIF and XMP stand in segments of this kind; in the coded image these bytes do not occur.
_APP1 = b"\xff\xe1"
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"
# Says that four channels are inks as Adobe's programs write them: 255 is none. Viewers take all
# such files so. A marker of this kind further on counts instead.
_ADOBE_INKS = b"\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


def decode(encoded, *, size=None):
    """Decodes a JPEG; see `images.decode`."""
    encoded, sides, turn = _opened(encoded)
    stored = _scaled(
        lambda scale: tf.io.decode_jpeg(encoded, channels=3, ratio=scale),
        lambda scale: -(-sides // scale),
        size,
    )
    return orientations.upright(stored, turn)


def decode_box(encoded, draw_box, *, size):
    """Decodes a box of a JPEG that ends with its end mark.

    A file is refused for the same faults as by `decode`, wherever the box lies: the decoder is led
    to the lowest row, but makes pixels only of the box's columns, from its top on.

    Args:
      encoded: <string>[] bytes of the file.
      draw_box: function of the upright image's height and width <int32>[2] to a box of it,
        <int32>[4]: top, left, height, width.
      size: the scale is the smallest at which both sides of the box are `size` pixels or more.

    Returns:
      <uint8>[H, W, 3].
    """
    encoded, sides, turn = _opened(encoded)
    sides_upright = orientations.upright_sides(sides, turn)
    box = draw_box(sides_upright)

    def decode_at(scale):
        scaled_sides = -(-sides_upright // scale)
        top, left, height, width = tf.unstack(
            orientations.stored_box(box // scale, scaled_sides, turn)
        )
        below = orientations.upright_sides(scaled_sides, turn)[0] - top
        window = tf.stack([top, left, below, width])
        return tf.io.decode_and_crop_jpeg(encoded, window, channels=3, ratio=scale)[:height]

    stored = _scaled(decode_at, lambda scale: box[2:] // scale, size)
    return orientations.upright(stored, turn)


def sides(encoded):
    """Returns <int64>[] height and width as stored."""
    height, width = tf.unstack(tf.cast(tf.io.extract_jpeg_shape(encoded)[:2], tf.int64))
    return height, width


def _opened(encoded):
    """Returns a file that may be decoded, <int32>[2] its sides as stored, and its orientation."""
    shape = tf.io.extract_jpeg_shape(encoded)
    height, width, channels = tf.unstack(tf.cast(shape, tf.int64))
    shape = rules.within_limits(shape, height, width)
    turn = _orientation(encoded)
    encoded = tf.cond(
        channels == 4,
        lambda: tf.strings.join([_ADOBE_INKS, text_at(encoded, 2, size_of(encoded))]),
        lambda: tf.identity(encoded),
    )
    return encoded, shape[:2], turn


def _scaled(decode_at, sides_at, size):
    """Decodes at the smallest scale, of 1, 1/2, 1/4, 1/8, that leaves both sides `size` pixels."""
    if size is None:
        return decode_at(1)
    fits = [tf.reduce_all(sides_at(scale) >= size) for scale in _SCALES[1:]]
    branches = [lambda scale=scale: decode_at(scale) for scale in _SCALES]
    return tf.switch_case(tf.reduce_sum(tf.cast(fits, tf.int32)), branches)


def _orientation(encoded):
    # Segments are gone through only where there is something to find: that takes a while.
    return tf.cond(
        contains(encoded, _APP1), lambda: _orientation_of_segments(encoded), lambda: _none()
    )


def _orientation_of_segments(encoded):
    def data(mark):
        def wanted(place):
            is_app1 = text_at(encoded, place, 2) == _APP1
            return is_app1 & (text_at(encoded, place + 4, len(mark)) == mark)

        place = find_chunk(
            encoded, _FIRST_SEGMENT, wanted=wanted, following=lambda x: _following(encoded, x)
        )
        return place + 4, big_endian(bytes_at(encoded, place + 2, 2)) - 2

    def of_xmp():
        start, length = data(_XMP_MARK)
        return orientations.of_xmp(text_at(encoded, start, tf.maximum(length, 0)))

    start, length = data(orientations.EXIF_MARK)
    stated = orientations.of_exif(encoded, start, tf.maximum(length, 0))
    ask_xmp = (stated == 0) & contains(encoded, orientations.XMP_ORIENTATION)
    return tf.cond(ask_xmp, of_xmp, lambda: stated)


def _following(encoded, place):
    """Returns the place of the next segment; the end of the file where the coded image begins."""
    first, kind, high, low = tf.unstack(bytes_at(encoded, place, 4))
    is_mark = first == 0xFF
    # Between segments there may be 0xFF any number of times, and bytes that belong to nothing.
    alone = (kind == 0x00) | (kind == 0x01) | ((kind >= 0xD0) & (kind <= 0xD8))
    step = tf.where(alone, tf.constant(2, tf.int64), tf.maximum(2 + 256 * high + low, 2))
    step = tf.where(is_mark & (kind != 0xFF), step, 1)
    is_end = is_mark & ((kind == 0xD9) | (kind == 0xDA))
    return tf.where(is_end, size_of(encoded), place + step)


def _none():
    return tf.constant(0, tf.int64)
