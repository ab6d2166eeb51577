"""Numbers, words and chunks in the bytes of a file, read by operations of TensorFlow.

A place beyond the end of the file reads as nothing, or as zeros; it is never an error.
"""

import tensorflow as tf

from limoe_tf.data.formats.rules import require

# Files of photographs have some tens of chunks, PNGs of 100 million pixels some ten thousands.
_MAX_CHUNKS = 50_000


def text_at(file, start, length):
    """Returns <string>[] up to `length` bytes of a file.

    Args:
      file: <string>[].
      start: <int64>[] place of the first byte, 0 or more.
      length: <int64>[] number of bytes, 0 or more.
    """
    size = size_of(file)
    start = tf.minimum(tf.cast(start, tf.int64), size)
    return tf.strings.substr(file, start, tf.minimum(tf.cast(length, tf.int64), size - start))


def bytes_at(file, start, count):
    """Returns <int64>[count] bytes of a file; `count` is a Python integer."""
    part = text_at(file, start, count)
    values = tf.io.decode_raw(part, tf.uint8, fixed_length=count)
    return tf.ensure_shape(tf.cast(values, tf.int64), [count])


def little_endian(values):
    """Returns <int64>[] the number that bytes <int64>[n] make, the first of them the least."""
    return tf.reduce_sum(values * tf.constant([256**i for i in range(values.shape[0])], tf.int64))


def big_endian(values):
    """Returns <int64>[] the number that bytes <int64>[n] make, the first of them the greatest."""
    return little_endian(values[::-1])


def size_of(file):
    """Returns <int64>[] bytes of a file."""
    return tf.cast(tf.strings.length(file), tf.int64)


def contains(file, words):
    """Returns <bool>[] whether a file holds some bytes anywhere; a fast search.

    Args:
      file: <string>[].
      words: Python bytes.
    """
    parts = tf.raw_ops.StringSplitV2(input=file[tf.newaxis], sep=words, maxsplit=1)
    return tf.size(parts.values) > 1


def find_chunk(file, start, *, wanted, following):
    """Goes from chunk to chunk of a file.

    Args:
      file: <string>[].
      start: <int64>[] place of the first chunk.
      wanted: function of the place of a chunk to <bool>[], whether it is the one.
      following: function of the place of a chunk to that of the next, at or beyond the end of the
        file if there is none.

    Returns:
      <int64>[] place of the first chunk that is wanted; the end of the file if there is none.

    Raises:
      tf.errors.InvalidArgumentError: if it has not been met among thousands.
    """
    size = size_of(file)

    def goes_on(place, found):
        return (place < size) & ~found

    def go_on(place, _):
        place = following(place)
        return place, wanted(place)

    start = tf.convert_to_tensor(start, tf.int64)
    place, found = tf.while_loop(
        goes_on, go_on, (start, wanted(start)), maximum_iterations=_MAX_CHUNKS
    )
    place = require(place, found | (place >= size), "file with too many chunks")
    return tf.where(found, place, size)
