"""WebP: still ones, lossy and lossless, transparency on white, upright."""

import tensorflow as tf

from limoe_tf.data.formats import orientation as orientations
from limoe_tf.data.formats import rules
from limoe_tf.data.formats.file_bytes import (
    bytes_at,
    contains,
    find_chunk,
    little_endian,
    text_at,
)
from limoe_tf.data.formats.white import on_white

ANIMATED = "animated WebP"
_FIRST_CHUNK = 12
_ANIMATION_FLAG = 2


def decode(encoded):
    """Decodes a still WebP; see `images.decode`."""
    flags = bytes_at(encoded, 20, 1)[0]
    is_animated = (text_at(encoded, _FIRST_CHUNK, 4) == b"VP8X") & (
        tf.bitwise.bitwise_and(flags, _ANIMATION_FLAG) > 0
    )
    encoded = rules.require(encoded, ~is_animated, ANIMATED)
    encoded = rules.within_limits(encoded, *sides(encoded))
    # As many channels as there are: 3, or 4 with alpha.
    image = tf.io.decode_webp(encoded, channels=0)
    image = tf.reshape(image, tf.shape(image)[-3:])
    image = tf.cond(tf.shape(image)[2] == 4, lambda: on_white(image), lambda: tf.identity(image))
    return orientations.upright(image, _orientation(encoded))


def sides(encoded):
    """Returns <int64>[] height and width of the canvas; zeros if it cannot be found.

    The decoder refuses a file whose image is of another size than its canvas.
    """
    kind = text_at(encoded, _FIRST_CHUNK, 4)
    head = bytes_at(encoded, _FIRST_CHUNK + 8, 10)
    # Two numbers of 14 bits, with other bits above.
    lossy = [little_endian(head[place : place + 2]) % (1 << 14) for place in (8, 6)]
    # The same one after the other, each less by one.
    packed = little_endian(head[1:5])
    lossless = [packed // (1 << 14) % (1 << 14) + 1, packed % (1 << 14) + 1]
    extended = [little_endian(head[place : place + 3]) + 1 for place in (7, 4)]
    none = tf.zeros([2], tf.int64)
    found = tf.where(kind == b"VP8 ", tf.stack(lossy), none)
    found = tf.where(kind == b"VP8L", tf.stack(lossless), found)
    height, width = tf.unstack(tf.where(kind == b"VP8X", tf.stack(extended), found))
    return height, width


def _orientation(encoded):
    def of_exif():
        return orientations.of_exif(encoded, *_chunk(encoded, b"EXIF"))

    def of_xmp():
        start, length = _chunk(encoded, b"XMP ")
        return orientations.of_xmp(text_at(encoded, start, length))

    none = tf.constant(0, tf.int64)
    stated = tf.cond(contains(encoded, b"EXIF"), of_exif, lambda: none)
    ask_xmp = (stated == 0) & contains(encoded, orientations.XMP_ORIENTATION)
    return tf.cond(ask_xmp, of_xmp, lambda: stated)


def _chunk(encoded, name):
    """Returns place and length of the data of the first chunk of a name."""

    def length(place):
        return little_endian(bytes_at(encoded, place + 4, 4))

    place = find_chunk(
        encoded,
        _FIRST_CHUNK,
        wanted=lambda x: text_at(encoded, x, 4) == name,
        following=lambda x: x + 8 + length(x) + length(x) % 2,
    )
    return place + 8, length(place)
