"""PNG: all colour types and depths, transparency on white, upright."""

import tensorflow as tf

from limoe_tf.data.formats import orientation as orientations
from limoe_tf.data.formats import rules
from limoe_tf.data.formats.apart import FILE, apart
from limoe_tf.data.formats.file_bytes import (
    find_chunk,
    numbers_at,
    size_of,
    text_at,
)
from limoe_tf.data.formats.white import on_white

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = int.from_bytes(b"IHDR", "big")
_ALPHA_BIT = 4
_XMP_MARK = b"iTXtXML:com.adobe.xmp\0\0"


@apart(FILE)
def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a PNG; see `images.decode`. Of an animation, the image for plain viewers."""
    encoded = rules.within_limits(encoded, *tf.unstack(sides(encoded)))
    image = tf.cond(
        _is_transparent(encoded),
        lambda: on_white(tf.io.decode_png(encoded, channels=4)),
        lambda: tf.io.decode_png(encoded, channels=3),
    )
    return _upright(image, encoded, channels=3)


@apart(FILE)
def decode_with_alpha(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a PNG for which `has_alpha` to <uint8>[H, W, 4], as `decode` does otherwise."""
    encoded = rules.within_limits(encoded, *tf.unstack(sides(encoded)))
    return _upright(tf.io.decode_png(encoded, channels=4), encoded, channels=4)


@apart(FILE)
def has_alpha(encoded: tf.Tensor) -> tf.Tensor:
    """Returns <bool>[] whether a file is a PNG whose pixels can be transparent."""
    is_png = tf.strings.substr(encoded, 0, len(SIGNATURE)) == SIGNATURE
    return tf.cond(is_png, lambda: _is_transparent(encoded), lambda: False)


def _upright(image, encoded, channels):
    turn = orientations.stated(_data(encoded, b"eXIf"), _data(encoded, _XMP_MARK))
    return orientations.upright(image, turn, channels=channels)


def sides(encoded: tf.Tensor) -> tf.Tensor:
    """Returns <int64>[2] height and width as stored; zeros if the first chunk is no header."""
    name, width, height = numbers_at(encoded, 0, (12, 4), (16, 4), (20, 4), order="big")
    return tf.where(name == _HEADER, tf.stack([height, width]), 0)


def _is_transparent(encoded):
    has_alpha = tf.bitwise.bitwise_and(numbers_at(encoded, 0, (25, 1))[0], _ALPHA_BIT) > 0
    # Only in front of the pixels it counts. Without it TensorFlow adds a wrong channel of alpha to
    # images of less than 8 bits.
    return has_alpha | (_chunk(encoded, b"tRNS") < _chunk(encoded, b"IDAT"))


def _data(encoded, mark):
    """Returns the data of the first chunk that starts with a mark; empty if there is none."""
    place = _chunk(encoded, mark)
    (length,) = numbers_at(encoded, place, (0, 4), order="big")
    return text_at(encoded, place + 8, length)


@apart(FILE, FILE)
def _chunk(encoded, mark):
    """Returns the place of the first chunk whose type and data start with a mark."""
    mark_length = size_of(mark)

    def following(place):
        (length,) = numbers_at(encoded, place, (0, 4), order="big")
        return place + 12 + length

    return find_chunk(
        encoded,
        len(SIGNATURE),
        mark,
        wanted=lambda place: text_at(encoded, place + 4, mark_length) == mark,
        following=following,
    )
