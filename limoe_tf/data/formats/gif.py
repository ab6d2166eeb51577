"""Still GIF: its one frame where it lies on the screen, transparency on white.

TensorFlow's decoder shows transparency as black, forgets the screen, and gives what memory held for
the rest of a frame that is cut off. So it is given another file of the same coded pixels: the frame
alone, opaque, with white in the palette for what is transparent, and behind it a frame of one
pixel, which is reached only if the first one is whole.
"""

from typing import NamedTuple

import tensorflow as tf

from limoe_tf.data.formats import rules
from limoe_tf.data.formats.file_bytes import bytes_at, little_endian, size_of, text_at

ANIMATED = "animated GIF"
DAMAGED = "truncated or damaged GIF"
_SCREEN_END = 13
_EXTENSION, _FRAME, _END, _CONTROL = 0x21, 0x2C, 0x3B, 0xF9
_FRAME_BYTES = 10
# Runs of sub-blocks of equal size that are passed at once, and such steps in a file.
_RUN, _MAX_STEPS = 4096, 20_000
_GREYS = bytes(value for value in range(256) for _ in range(3))
_SENTINEL = b",\0\0\0\0\1\0\1\0\x80\0\0\0\0\0\0\2\2\x44\1\0;"


class _Frame(NamedTuple):
    """The first frame of a file, <int64>[] where nothing else is said.

    `place` is that of its head in the file, `start` and `end` those of the coded pixels.
    `interlaced` is <bool>[], `palette` <string>[] of 256 colours, `transparent` one of them or -1.
    """

    place: tf.Tensor
    left: tf.Tensor
    top: tf.Tensor
    width: tf.Tensor
    height: tf.Tensor
    interlaced: tf.Tensor
    palette: tf.Tensor
    transparent: tf.Tensor
    start: tf.Tensor
    end: tf.Tensor


def decode(encoded):
    """Decodes a still GIF; see `images.decode`."""
    place, transparent = _next_frame(encoded, _after_palette(encoded))
    encoded = rules.require(encoded, _byte(encoded, place) == _FRAME, DAMAGED)
    frame = _frame(encoded, place, transparent)
    height, width = sides(encoded)
    encoded = rules.within_limits(encoded, height, width)
    encoded = rules.require(encoded, frame.width * frame.height > 0, DAMAGED)
    behind = _byte(encoded, _next_frame(encoded, frame.end)[0])
    encoded = rules.require(encoded, behind != _FRAME, ANIMATED)
    encoded = rules.require(encoded, behind == _END, DAMAGED)
    frames = tf.io.decode_gif(_alone(encoded, frame))
    image = rules.require(frames[0], tf.shape(frames)[0] == 2, DAMAGED)
    return _on_screen(image, frame, height, width)


def sides(encoded):
    """Returns <int64>[] height and width of the screen, grown to hold the first frame."""
    place, _ = _next_frame(encoded, _after_palette(encoded))
    left, top, width, height = _four_numbers(encoded, place + 1)
    is_frame = tf.cast(_byte(encoded, place) == _FRAME, tf.int64)
    screen_width, screen_height = _four_numbers(encoded, 6)[:2]
    return (
        tf.maximum(screen_height, (top + height) * is_frame),
        tf.maximum(screen_width, (left + width) * is_frame),
    )


def _four_numbers(encoded, place):
    values = bytes_at(encoded, place, 8)
    return [little_endian(values[start : start + 2]) for start in range(0, 8, 2)]


def _byte(encoded, place):
    return bytes_at(encoded, place, 1)[0]


def _colours(flags):
    """Returns the bytes of the palette that flags announce, 0 if none."""
    size = 3 * tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8)
    return tf.where(flags >= 0x80, size, 0)


def _after_palette(encoded):
    return _SCREEN_END + _colours(_byte(encoded, 10))


def _next_frame(encoded, place):
    """Passes extensions; returns the place of what follows, and the transparent colour or -1."""

    def is_extension(place, _):
        return _byte(encoded, place) == _EXTENSION

    def pass_one(place, transparent):
        _, kind, size, flags, _, _, colour = tf.unstack(bytes_at(encoded, place, 7))
        states = (kind == _CONTROL) & (size >= 4) & (flags % 2 == 1)
        return _after_blocks(encoded, place + 2), tf.where(states, colour, transparent)

    return tf.while_loop(
        is_extension,
        pass_one,
        (place, tf.constant(-1, tf.int64)),
        maximum_iterations=_MAX_STEPS,
    )


def _after_blocks(encoded, place):
    """Returns the place behind sub-blocks and the empty one that ends them.

    It is the end of the file, where no byte stands, if they do not end.
    """
    size = size_of(encoded)

    def goes_on(place):
        return (place < size) & (_byte(encoded, place) > 0)

    def pass_run(place):
        step = _byte(encoded, place) + 1
        run = tf.io.decode_raw(text_at(encoded, place, _RUN * step), tf.uint8)[
            :: tf.cast(step, tf.int32)
        ]
        others = tf.where(tf.cast(run, tf.int64) != step - 1)[:, 0]
        count = tf.concat([others, [tf.size(run, tf.int64)]], axis=0)[0]
        return place + count * step

    (last,) = tf.while_loop(
        goes_on, lambda x: (pass_run(x),), (place,), maximum_iterations=_MAX_STEPS
    )
    ended = (last < size) & (_byte(encoded, last) == 0)
    return tf.where(ended, last + 1, size)


def _frame(encoded, place, transparent):
    flags = _byte(encoded, place + 9)
    own, shared = _colours(flags), _colours(_byte(encoded, 10))
    palette_at = tf.where(own > 0, place + _FRAME_BYTES, _SCREEN_END)
    palette = text_at(encoded, palette_at, tf.where(own > 0, own, shared))
    # Colours beyond the palette are shades of grey.
    palette = tf.strings.join([palette, text_at(_GREYS, tf.strings.length(palette), len(_GREYS))])
    start = place + _FRAME_BYTES + own
    left, top, width, height = _four_numbers(encoded, place + 1)
    return _Frame(
        place=place,
        left=left,
        top=top,
        width=width,
        height=height,
        interlaced=flags // 0x40 % 2 == 1,
        palette=palette,
        transparent=transparent,
        start=start,
        end=_after_blocks(encoded, start + 1),
    )


def _with_white(frame):
    """Returns the palette with white as the transparent colour."""
    place = 3 * frame.transparent
    parts = [text_at(frame.palette, 0, place), b"\xff" * 3, text_at(frame.palette, place + 3, 768)]
    return tf.where(frame.transparent < 0, frame.palette, tf.strings.join(parts))


def _alone(encoded, frame):
    """Returns a GIF of the frame, and of a second one that is sound."""
    extent = text_at(encoded, frame.place + 5, 4)
    parts = [
        b"GIF89a",
        extent,
        b"\0\0\0,\0\0\0\0",
        extent,
        tf.where(frame.interlaced, b"\xc7", b"\x87"),
        _with_white(frame),
        text_at(encoded, frame.start, frame.end - frame.start),
        _SENTINEL,
    ]
    return tf.strings.join(parts)


def _on_screen(image, frame, height, width):
    """Lays the frame on the screen: white if a colour is transparent, else of the first colour."""
    covers = (frame.height == height) & (frame.width == width)

    def lay():
        below = [height - frame.top - frame.height, width - frame.left - frame.width]
        margins = tf.stack([[frame.top, below[0]], [frame.left, below[1]], [0, 0]])
        is_frame = tf.pad(tf.ones_like(image[..., :1], tf.bool), margins)
        first = tf.io.decode_raw(text_at(_with_white(frame), 0, 3), tf.uint8)
        colour = tf.where(frame.transparent < 0, first, 255)
        return tf.where(is_frame, tf.pad(image, margins), colour)

    image = tf.cond(covers, lambda: tf.identity(image), lay)
    return tf.ensure_shape(image, [None, None, 3])
