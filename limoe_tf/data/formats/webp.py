"""WebP: still ones, lossy and lossless, transparency on white, upright."""

import tensorflow as tf

from limoe_tf.data.formats import orientation as orientations
from limoe_tf.data.formats import rules
from limoe_tf.data.formats.apart import FILE, apart
from limoe_tf.data.formats.file_bytes import find_chunk, numbers_at, text_at
from limoe_tf.data.formats.white import on_white

ANIMATED = "animated WebP"
_FIRST_CHUNK = 12
_LOSSY, _LOSSLESS, _EXTENDED = (
    int.from_bytes(name, "little") for name in (b"VP8 ", b"VP8L", b"VP8X")
)
_ANIMATION_BIT = 2


@apart(FILE)
def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a still WebP; see `images.decode`."""
    kind, flags, height, width = _header(encoded)
    is_animated = (kind == _EXTENDED) & (tf.bitwise.bitwise_and(flags, _ANIMATION_BIT) > 0)
    encoded = rules.require(encoded, ~is_animated, ANIMATED)
    encoded = rules.within_limits(encoded, height, width)
    # As many channels as there are: 3, or 4 with alpha.
    image = tf.io.decode_webp(encoded, channels=0)
    image = tf.reshape(image, tf.shape(image)[-3:])
    image = tf.cond(tf.shape(image)[2] == 4, lambda: on_white(image), lambda: tf.identity(image))
    turn = orientations.stated(_data(encoded, b"EXIF"), _data(encoded, b"XMP "))
    return orientations.upright(image, turn)


def sides(encoded: tf.Tensor) -> tf.Tensor:
    """Returns <int64>[2] height and width of the canvas; zeros if they are nowhere.

    The decoder refuses a file whose image is of another size than its canvas.
    """
    return tf.stack(_header(encoded)[2:])


def _header(encoded):
    """Returns the kind of the first chunk, the byte of its flags if extended, height and width."""
    # By kind: two numbers with bits of another meaning above them; both in one; two numbers. The
    # latter are all smaller by one.
    fields = ((12, 4), (20, 1), (28, 2), (26, 2), (21, 4), (27, 3), (24, 3))
    numbers = numbers_at(encoded, 0, *fields)
    kind, flags, height, width, both, canvas_height, canvas_width = numbers
    limit = 1 << 14
    found = tf.where(kind == _LOSSY, tf.stack([height, width]) % limit, 0)
    found = tf.where(kind == _LOSSLESS, tf.stack([both // limit, both]) % limit + 1, found)
    found = tf.where(kind == _EXTENDED, tf.stack([canvas_height, canvas_width]) + 1, found)
    return kind, flags, *tf.unstack(found)


@apart(FILE, FILE)
def _data(encoded, name):
    """Returns the data of the first chunk of a name; empty if there is none."""

    def length(place):
        return numbers_at(encoded, place + 4, (0, 4))[0]

    place = find_chunk(
        encoded,
        _FIRST_CHUNK,
        name,
        wanted=lambda place: text_at(encoded, place, 4) == name,
        following=lambda place: place + 8 + (length(place) + 1) // 2 * 2,
    )
    return text_at(encoded, place + 8, length(place))
