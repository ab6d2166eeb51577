"""Still GIF: its one frame at its place on the screen, transparency on white.

TensorFlow's decoder shows transparency as black, ignores the screen, and returns what was in memory
for the rest of a truncated frame. So it is given another file of the same coded pixels: the frame
alone, opaque, with white in the palette for what is transparent, and behind it a frame of one
pixel, which the decoder reaches only if the first one is complete.
"""

from typing import NamedTuple

import tensorflow as tf

from limoe_tf.data.formats import rules
from limoe_tf.data.formats.apart import FILE, apart
from limoe_tf.data.formats.file_bytes import bytes_at, numbers_at, size_of, text_at

ANIMATED = "animated GIF"
DAMAGED = "truncated or damaged GIF"
_SCREEN_END = 13
_EXTENSION, _FRAME, _END, _CONTROL = 0x21, 0x2C, 0x3B, 0xF9
_HEADER_BYTES = 10
# Runs of sub-blocks of equal size that are skipped at once, and such steps in a file.
_RUN, _MAX_STEPS = 4096, 20_000
_GREYS = bytes(value for value in range(256) for _ in range(3))
_SECOND_FRAME = b",\0\0\0\0\1\0\1\0\x80\0\0\0\0\0\0\2\2\x44\1\0;"


class _Frame(NamedTuple):
    """The first frame of a file, <int64>[] unless noted.

    `place` is that of its header, or of what is there instead, whose first byte is `mark`. `start`
    and `end` are those of the coded pixels. `palette` is <string>[] of 256 colours; `transparent`
    one of them, or -1.
    """

    place: tf.Tensor
    mark: tf.Tensor
    left: tf.Tensor
    top: tf.Tensor
    width: tf.Tensor
    height: tf.Tensor
    flags: tf.Tensor
    palette: tf.Tensor
    transparent: tf.Tensor
    start: tf.Tensor
    end: tf.Tensor


@apart(FILE)
def decode(encoded: tf.Tensor) -> tf.Tensor:
    """Decodes a still GIF; see `images.decode`."""
    frame = _first_frame(encoded)
    is_frame = (frame.mark == _FRAME) & (frame.width * frame.height > 0)
    encoded = rules.require(encoded, is_frame, DAMAGED)
    height, width = tf.unstack(_screen(encoded, frame))
    encoded = rules.within_limits(encoded, height, width)
    behind = _byte(encoded, _after_extensions(encoded, frame.end)[0])
    encoded = rules.require(encoded, behind != _FRAME, ANIMATED)
    encoded = rules.require(encoded, behind == _END, DAMAGED)
    frames = tf.io.decode_gif(_alone(encoded, frame))
    image = rules.require(frames[0], tf.shape(frames)[0] == 2, DAMAGED)
    return _on_screen(image, frame, height, width)


@apart(FILE)
def sides(encoded: tf.Tensor) -> tf.Tensor:
    """Returns <int64>[2] height and width of the screen, grown to hold the first frame."""
    return _screen(encoded, _first_frame(encoded))


def _screen(encoded, frame):
    width, height = numbers_at(encoded, 0, (6, 2), (8, 2))
    return tf.stack(
        [
            tf.maximum(height, frame.top + frame.height),
            tf.maximum(width, frame.left + frame.width),
        ]
    )


def _byte(encoded, place):
    return bytes_at(encoded, place, 1)[0]


def _colour_bytes(flags):
    """Returns the bytes of the palette that flags announce, 0 if none."""
    size = 3 * tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8)
    return tf.where(flags >= 0x80, size, 0)


def _first_frame(encoded):
    shared = _colour_bytes(numbers_at(encoded, 0, (10, 1))[0])
    place, transparent = _after_extensions(encoded, _SCREEN_END + shared)
    mark, left, top, width, height, flags = numbers_at(
        encoded, place, (0, 1), (1, 2), (3, 2), (5, 2), (7, 2), (9, 1)
    )
    own = _colour_bytes(flags)
    palette_at = tf.where(own > 0, place + _HEADER_BYTES, _SCREEN_END)
    palette = text_at(encoded, palette_at, tf.where(own > 0, own, shared))
    # Colours beyond the palette are shades of grey.
    palette = tf.strings.join([palette, text_at(_GREYS, size_of(palette), len(_GREYS))])
    start = place + _HEADER_BYTES + own
    end = _after_blocks(encoded, start + 1)
    return _Frame(place, mark, left, top, width, height, flags, palette, transparent, start, end)


@apart(FILE, tf.TensorSpec([], tf.int64))
def _after_extensions(encoded, place):
    """Returns the place of what follows extensions, and the transparent colour in them or -1."""

    def skip_one(place, transparent):
        kind, size, flags, colour = numbers_at(encoded, place, (1, 1), (2, 1), (3, 1), (6, 1))
        states = (kind == _CONTROL) & (size >= 4) & (flags % 2 == 1)
        return _after_blocks(encoded, place + 2), tf.where(states, colour, transparent)

    return tf.while_loop(
        lambda place, _: _byte(encoded, place) == _EXTENSION,
        skip_one,
        (place, tf.constant(-1, tf.int64)),
        maximum_iterations=_MAX_STEPS,
    )


@apart(FILE, tf.TensorSpec([], tf.int64))
def _after_blocks(encoded, place):
    """Returns the place behind sub-blocks and the empty one that ends them.

    It is the end of the file, where no byte is, if they do not end.
    """

    def skip_run(place):
        step = _byte(encoded, place) + 1
        run = tf.io.decode_raw(text_at(encoded, place, _RUN * step), tf.uint8)
        is_equal = run[:: tf.cast(step, tf.int32)] == run[0]
        num_equal = tf.reduce_sum(tf.math.cumprod(tf.cast(is_equal, tf.int64)))
        return (place + step * num_equal,)

    (last,) = tf.while_loop(
        lambda place: _byte(encoded, place) > 0,
        skip_run,
        (place,),
        maximum_iterations=_MAX_STEPS,
    )
    size = size_of(encoded)
    return tf.where((last < size) & (_byte(encoded, last) == 0), last + 1, size)


def _with_white(frame):
    """Returns the palette with white as the transparent colour."""
    place = tf.where(frame.transparent >= 0, 3 * frame.transparent, len(_GREYS))
    parts = [text_at(frame.palette, 0, place), b"\xff" * 3, text_at(frame.palette, place + 3, 768)]
    return tf.strings.substr(tf.strings.join(parts), 0, len(_GREYS))


def _alone(encoded, frame):
    """Returns a GIF of the frame, and of a second one that is valid."""
    extent = text_at(encoded, frame.place + 5, 4)
    is_interlaced = tf.bitwise.bitwise_and(frame.flags, 0x40) > 0
    parts = [
        b"GIF89a",
        extent,
        b"\0\0\0,\0\0\0\0",
        extent,
        tf.where(is_interlaced, b"\xc7", b"\x87"),
        _with_white(frame),
        text_at(encoded, frame.start, frame.end - frame.start),
        _SECOND_FRAME,
    ]
    return tf.strings.join(parts)


def _on_screen(image, frame, height, width):
    """Places the frame on the screen: white if a colour is transparent, else the first colour."""

    def place():
        below = height - frame.top - frame.height
        right = width - frame.left - frame.width
        margins = tf.stack([[frame.top, below], [frame.left, right], [0, 0]])
        is_frame = tf.pad(tf.ones_like(image[..., :1], tf.bool), margins)
        first = tf.io.decode_raw(text_at(frame.palette, 0, 3), tf.uint8)
        colour = tf.where(frame.transparent < 0, first, tf.constant(255, tf.uint8))
        return tf.where(is_frame, tf.pad(image, margins), colour)

    covers = frame.height * frame.width == height * width
    image = tf.cond(covers, lambda: tf.identity(image), place)
    return tf.ensure_shape(image, [None, None, 3])
