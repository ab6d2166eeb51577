"""PNG: every colour type and depth, transparency on white, upright."""

import tensorflow as tf

from limoe_tf.data.formats import orientation as orientations
from limoe_tf.data.formats import rules
from limoe_tf.data.formats.file_bytes import big_endian, bytes_at, contains, find_chunk, text_at
from limoe_tf.data.formats.white import on_white

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_WITH_ALPHA = (4, 6)
_XMP_MARK = b"iTXtXML:com.adobe.xmp\0\0"


def decode(encoded):
    """Decodes a PNG; see `images.decode`. Of an animation the picture for plain viewers counts."""
    encoded = rules.within_limits(encoded, *sides(encoded))
    image = tf.cond(
        _is_transparent(encoded),
        lambda: on_white(tf.io.decode_png(encoded, channels=4)),
        lambda: tf.io.decode_png(encoded, channels=3),
    )
    return orientations.upright(image, _orientation(encoded))


def sides(encoded):
    """Returns <int64>[] height and width as stored; zeros if its first chunk is another."""
    is_header = tf.cast(text_at(encoded, 12, 4) == b"IHDR", tf.int64)
    values = bytes_at(encoded, 16, 8) * is_header
    return big_endian(values[4:]), big_endian(values[:4])


def _is_transparent(encoded):
    colour_type = bytes_at(encoded, 25, 1)[0]
    has_alpha = tf.reduce_any(colour_type == tf.constant(_WITH_ALPHA, tf.int64))
    # Of no meaning behind the pixels. There, or without any, a channel of alpha would be wrong:
    # TensorFlow fills that of less than 8 bits with too small a number.
    return has_alpha | tf.cond(
        contains(encoded, b"tRNS"),
        lambda: _chunk(encoded, b"tRNS")[0] < _chunk(encoded, b"IDAT")[0],
        lambda: tf.constant(False),
    )


def _orientation(encoded):
    def of_exif():
        return orientations.of_exif(encoded, *_chunk(encoded, b"eXIf"))

    def of_xmp():
        start, length = _chunk(encoded, _XMP_MARK)
        return orientations.of_xmp(text_at(encoded, start, length))

    none = tf.constant(0, tf.int64)
    stated = tf.cond(contains(encoded, b"eXIf"), of_exif, lambda: none)
    ask_xmp = (stated == 0) & contains(encoded, orientations.XMP_ORIENTATION)
    return tf.cond(ask_xmp, of_xmp, lambda: stated)


def _chunk(encoded, mark):
    """Returns place and length of the data of the first chunk that starts with some bytes."""
    place = find_chunk(
        encoded,
        len(SIGNATURE),
        wanted=lambda x: text_at(encoded, x + 4, len(mark)) == mark,
        following=lambda x: x + 12 + big_endian(bytes_at(encoded, x, 4)),
    )
    return place + 8, big_endian(bytes_at(encoded, place, 4))
