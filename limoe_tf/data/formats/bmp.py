"""BMP without compression: 1, 4 or 8 bits with a palette, 24 bits, 32 bits with or without alpha.

TensorFlow's own decoder takes places in a palette for grey, and knows no alpha.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from limoe_tf.data.formats import rules
from limoe_tf.data.formats.apart import FILE, apart
from limoe_tf.data.formats.file_bytes import numbers_at, text_at
from limoe_tf.data.formats.white import on_white

OTHER_KIND = "BMP with compression or 16 bits a pixel"
TRUNCATED = "truncated BMP"
_HEADER_AT = 14
_OLDEST_HEADER = 12
_HEADERS = (_OLDEST_HEADER, 40, 52, 56, 64, 108, 124)
_WITH_ALPHA_MASK = 56
_BIT_FIELDS = 3
# Red, green, blue and alpha in a number of 32 bits.
_MASKS = (0xFF0000, 0xFF00, 0xFF, 0)
_MASKS_WITH_ALPHA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
# Places and widths: height, width, bits a pixel, compression, colours; in the oldest headers the
# last two are missing.
_LATER = ((22, 4), (18, 4), (28, 2), (30, 4), (46, 4))
_OLDEST = ((20, 2), (18, 2), (24, 2), (26, 0), (26, 0))
_FIELDS = ((10, 4), (14, 4), *_LATER, *_OLDEST, (54, 4), (58, 4), (62, 4), (66, 4))
_GREYS = np.repeat(np.arange(256, dtype=np.uint8)[:, np.newaxis], 3, axis=1)


class _Header(NamedTuple):
    """Numbers of a header, <int64>[] each; `bottom_up` is <bool>[].

    `offset` is where the pixels begin, `colours` the number of those in the palette, each of
    `colour_bytes`; `masks` <int64>[4] are those of channels, if there are any.
    """

    offset: tf.Tensor
    size: tf.Tensor
    height: tf.Tensor
    width: tf.Tensor
    bottom_up: tf.Tensor
    bits: tf.Tensor
    compression: tf.Tensor
    colours: tf.Tensor
    colour_bytes: tf.Tensor
    masks: tf.Tensor


@apart(FILE)
def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP; see `images.decode`."""
    header = _header(encoded)
    encoded = rules.within_limits(encoded, header.height, header.width)
    has_alpha = _has_alpha(header)
    rows = _rows(encoded, header)
    kind = tf.where(header.bits <= 8, 0, tf.where(header.bits == 24, 1, 2))
    image = tf.switch_case(
        tf.where(has_alpha, 3, kind),
        [
            lambda: tf.gather(_palette(encoded, header), _indices(rows, header)),
            lambda: _channels(rows, header, 3)[..., ::-1],
            lambda: _channels(rows, header, 4)[..., 2::-1],
            lambda: on_white(tf.gather(_channels(rows, header, 4), [2, 1, 0, 3], axis=2)),
        ],
    )
    image = tf.reverse(image, tf.where(header.bottom_up[tf.newaxis])[:, 0])
    return tf.ensure_shape(image, [None, None, 3])


def sides(encoded: tf.Tensor) -> tf.Tensor:
    """Returns <int64>[2] height and width."""
    header = _header(encoded)
    return tf.stack([header.height, header.width])


def _header(encoded):
    numbers = numbers_at(encoded, 0, *_FIELDS)
    offset, size, *later = numbers[: 2 + len(_OLDEST)]
    oldest = numbers[len(later) + 2 : len(later) * 2 + 2]
    fields = tf.where(size == _OLDEST_HEADER, oldest, later)
    height, width, bits, compression, colours = tf.unstack(fields)
    top_down = height >= 1 << 31  # A negative number.
    full = tf.bitwise.left_shift(tf.constant(1, tf.int64), tf.minimum(bits, 8))
    colours = tf.where(colours == 0, full, tf.minimum(colours, 256))
    return _Header(
        offset=offset,
        size=size,
        height=tf.where(top_down, (1 << 32) - height, height),
        width=width,
        bottom_up=~top_down,
        bits=bits,
        compression=compression,
        colours=tf.where(bits <= 8, colours, 0),
        colour_bytes=tf.where(size == _OLDEST_HEADER, tf.constant(3, tf.int64), 4),
        masks=tf.stack(numbers[-4:]),
    )


def _has_alpha(header):
    """Returns <bool>[] whether the fourth channel is alpha; refuses pixels of other kinds."""
    masks = tf.where([True, True, True, header.size >= _WITH_ALPHA_MASK], header.masks, 0)
    in_fields = (header.compression == _BIT_FIELDS) & (header.bits == 32)
    has_alpha = in_fields & tf.reduce_all(masks == _MASKS_WITH_ALPHA)
    without = in_fields & tf.reduce_all(masks == _MASKS)
    plain = (header.compression == 0) & tf.reduce_any(header.bits == (1, 4, 8, 24, 32))
    is_valid = (plain | has_alpha | without) & tf.reduce_any(header.size == _HEADERS)
    return rules.require(has_alpha, is_valid, OTHER_KIND)


def _rows(encoded, header):
    """Returns <uint8>[H, bytes of a row] in the order of the file."""
    num_bytes = (header.width * header.bits + 31) // 32 * 4
    palette_end = _HEADER_AT + header.size + header.colours * header.colour_bytes
    start = tf.maximum(header.offset, palette_end)
    data = text_at(encoded, start, header.height * num_bytes)
    missing = header.height * num_bytes - tf.cast(tf.strings.length(data), tf.int64)
    data = tf.io.decode_raw(rules.require(data, missing == 0, TRUNCATED), tf.uint8)
    return tf.reshape(data, tf.stack([header.height, num_bytes]))


def _channels(rows, header, count):
    """Returns <uint8>[H, W, count]."""
    pixels = rows[:, : header.width * count]
    return tf.reshape(pixels, tf.stack([header.height, header.width, count]))


def _palette(encoded, header):
    """Returns <uint8>[256, 3]; colours beyond the palette are shades of grey."""
    length = header.colours * header.colour_bytes
    values = tf.io.decode_raw(text_at(encoded, _HEADER_AT + header.size, length), tf.uint8)
    colours = tf.reshape(values, tf.stack([-1, header.colour_bytes]))[:, 2::-1]
    return tf.concat([colours, tf.constant(_GREYS)[tf.shape(colours)[0] :]], axis=0)


def _indices(rows, header):
    """Returns <int32>[H, W] indices into the palette, of which a byte holds 8, 2 or 1."""
    bits = tf.cast(header.bits, tf.uint8)
    shifts = tf.cast(tf.range(8 - header.bits, -1, -header.bits), tf.uint8)
    parts = tf.bitwise.right_shift(rows[..., tf.newaxis], shifts)
    mask = tf.bitwise.right_shift(tf.constant(255, tf.uint8), tf.constant(8, tf.uint8) - bits)
    parts = tf.reshape(tf.bitwise.bitwise_and(parts, mask), tf.stack([header.height, -1]))
    return tf.cast(parts[:, : header.width], tf.int32)
