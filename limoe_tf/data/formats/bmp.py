"""BMP without compression: 1, 4 or 8 bits with a palette, 24 bits, 32 bits with and without alpha.

TensorFlow's own decoder takes places in a palette for grey, and knows no alpha.
"""

from typing import NamedTuple

import tensorflow as tf

from limoe_tf.data.formats import rules
from limoe_tf.data.formats.file_bytes import bytes_at, little_endian, text_at
from limoe_tf.data.formats.white import on_white

OF_OTHER_KIND = "BMP with compression or 16 bits a pixel"
CUT = "truncated BMP"
_HEADER_AT = 14
_OLDEST_HEADER = 12
_HEADERS = (_OLDEST_HEADER, 40, 52, 56, 64, 108, 124)
_WITH_ALPHA_MASK = 56
_BIT_FIELDS = 3
_MASKS_AT = _HEADER_AT + 40
# Red, green and blue in a number of 32 bits, as bytes from the least on.
_MASKS = (0, 0, 255, 0, 0, 255, 0, 0, 255, 0, 0, 0)
_ALPHA = (0, 0, 0, 255)


class _Header(NamedTuple):
    """Numbers of a file's head, <int64>[] each; a picture whose rows go upwards has height > 0."""

    size: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    bits: tf.Tensor
    compression: tf.Tensor
    colours: tf.Tensor


def decode(encoded):
    """Decodes a BMP; see `images.decode`."""
    header = _header(encoded)
    encoded = rules.within_limits(encoded, tf.abs(header.height), header.width)
    has_alpha = _has_alpha(encoded, header)
    rows = _rows(encoded, header)
    image = tf.case(
        [
            (header.bits <= 8, lambda: _from_palette(encoded, header, rows)),
            (header.bits == 24, lambda: _channels(rows, header, 3)[..., ::-1]),
            (
                has_alpha,
                lambda: on_white(tf.gather(_channels(rows, header, 4), [2, 1, 0, 3], axis=2)),
            ),
        ],
        default=lambda: _channels(rows, header, 4)[..., 2::-1],
    )
    image = tf.cond(header.height > 0, lambda: image[::-1], lambda: tf.identity(image))
    return tf.ensure_shape(image, [None, None, 3])


def sides(encoded):
    """Returns <int64>[] height and width."""
    header = _header(encoded)
    return tf.abs(header.height), header.width


def _header(encoded):
    values = bytes_at(encoded, _HEADER_AT, 40)
    is_oldest = little_endian(values[:4]) == _OLDEST_HEADER

    def number(start, end, oldest_start, oldest_end):
        value = little_endian(values[start:end])
        return tf.where(is_oldest, little_endian(values[oldest_start:oldest_end]), value)

    height = number(8, 12, 6, 8)
    later = tf.cast(~is_oldest, tf.int64)
    return _Header(
        size=little_endian(values[:4]),
        height=tf.where(height >= 1 << 31, height - (1 << 32), height),
        width=number(4, 8, 4, 6),
        bits=number(14, 16, 10, 12),
        compression=little_endian(values[16:20]) * later,
        colours=little_endian(values[32:36]) * later,
    )


def _has_alpha(encoded, header):
    """Returns <bool>[] whether the fourth channel is alpha; refuses other kinds of pixels."""
    masks = bytes_at(encoded, _MASKS_AT, 16)
    last = tf.where(header.size >= _WITH_ALPHA_MASK, masks[12:], 0)
    has_alpha = tf.reduce_all(last == _ALPHA) & (header.compression == _BIT_FIELDS)
    usual_masks = tf.reduce_all(masks[:12] == _MASKS) & (has_alpha | tf.reduce_all(last == 0))
    plain = (header.compression == 0) & _is_among((1, 4, 8, 24, 32), header.bits)
    in_fields = (header.compression == _BIT_FIELDS) & (header.bits == 32) & usual_masks
    sound = (plain | in_fields) & _is_among(_HEADERS, header.size)
    return rules.require(has_alpha, sound, OF_OTHER_KIND)


def _rows(encoded, header):
    """Returns <uint8>[H, bytes of a row] in the order of the file."""
    height, num_bytes = tf.abs(header.height), (header.width * header.bits + 31) // 32 * 4
    start = tf.maximum(little_endian(bytes_at(encoded, 10, 4)), _palette_end(header))
    data = text_at(encoded, start, height * num_bytes)
    is_whole = tf.cast(tf.strings.length(data), tf.int64) == height * num_bytes
    data = rules.require(data, is_whole, CUT)
    return tf.reshape(tf.io.decode_raw(data, tf.uint8), tf.stack([height, num_bytes]))


def _channels(rows, header, count):
    """Returns <uint8>[H, W, count]."""
    pixels = rows[:, : header.width * count]
    return tf.reshape(pixels, tf.stack([tf.abs(header.height), header.width, count]))


def _from_palette(encoded, header, rows):
    count, width = _palette(header)
    palette = text_at(encoded, _HEADER_AT + header.size, count * width)
    palette = tf.io.decode_raw(palette, tf.uint8)
    palette = tf.reshape(
        palette[: tf.size(palette, tf.int64) // width * width], tf.stack([-1, width])
    )[:, 2::-1]
    # Places beyond the palette are shades of grey.
    grey = tf.tile(tf.range(256)[:, tf.newaxis], [1, 3])
    palette = tf.concat([palette, tf.cast(grey, tf.uint8)[tf.shape(palette)[0] :]], axis=0)
    return tf.gather(palette, tf.cast(_places(rows, header), tf.int32))


def _places(rows, header):
    """Returns <uint8>[H, W] places in the palette, of which a byte holds 1, 2 or 8."""

    def unpacked(bits):
        shifts = tf.constant(list(range(8 - bits, -1, -bits)), tf.uint8)
        parts = tf.bitwise.right_shift(rows[..., tf.newaxis], shifts)
        parts = tf.bitwise.bitwise_and(parts, tf.constant(2**bits - 1, tf.uint8))
        return tf.reshape(parts, tf.stack([tf.shape(rows)[0], -1]))

    places = tf.case(
        [(header.bits == 1, lambda: unpacked(1)), (header.bits == 4, lambda: unpacked(4))],
        default=lambda: tf.identity(rows),
    )
    return places[:, : header.width]


def _palette(header):
    """Returns the number of colours of a palette, and the bytes of each."""
    full = tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.minimum(header.bits, 8))
    count = tf.where(header.colours > 0, tf.minimum(header.colours, 256), full)
    return count, tf.where(header.size == _OLDEST_HEADER, tf.constant(3, tf.int64), 4)


def _palette_end(header):
    count, width = _palette(header)
    return _HEADER_AT + header.size + tf.where(header.bits <= 8, count * width, 0)


def _is_among(some, value):
    return tf.reduce_any(value == tf.constant(some, tf.int64))
