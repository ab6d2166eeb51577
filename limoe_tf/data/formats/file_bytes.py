"""Numbers, words and chunks in the bytes of a file, read by operations of TensorFlow.

A place beyond the end of the file reads as nothing, or as zeros; it is never an error. Operations
are few on purpose, see `apart`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from limoe_tf.data.formats.rules import require

# Photographs have some tens of chunks, PNGs of 100 million pixels some ten thousand.
_MAX_CHUNKS = 50_000


def size_of(file: tf.Tensor) -> tf.Tensor:
    """Returns <int64>[] bytes of a file <string>[]."""
    return tf.cast(tf.strings.length(file), tf.int64)


def text_at(file: tf.Tensor, start: tf.Tensor | int, length: tf.Tensor | int) -> tf.Tensor:
    """Returns up to `length` bytes of a file.

    Args:
      file: <string>[].
      start: <int64>[] place of the first byte, 0 or more.
      length: <int64>[] number of bytes, 0 or more.

    Returns:
      <string>[].
    """
    length = tf.convert_to_tensor(length, tf.int64)
    if isinstance(start, int) and start == 0:
        return tf.strings.substr(file, tf.constant(0, tf.int64), length)
    start = tf.minimum(tf.convert_to_tensor(start, tf.int64), size_of(file))
    return tf.strings.substr(file, start, length)


def bytes_at(file: tf.Tensor, start: tf.Tensor | int, count: int) -> tf.Tensor:
    """Returns <int64>[count] bytes of a file, zeros beyond its end."""
    part = text_at(file, start, count)
    return tf.cast(tf.io.decode_raw(part, tf.uint8, fixed_length=count), tf.int64)


def weights(layout: Sequence[tuple[int, int]], count: int, *, order: str) -> np.ndarray:
    """Returns <int64>[n, count]: what each of `count` bytes counts in each of n numbers.

    Args:
      layout: first byte and number of bytes of each number.
      count: bytes.
      order: "little" if the first byte of a number is the least, "big" if it is the greatest.
    """
    table = np.zeros([len(layout), count], np.int64)
    for row, (start, width) in zip(table, layout):
        values = 256 ** np.arange(width, dtype=np.int64)
        row[start : start + width] = values if order == "little" else values[::-1]
    return table


def numbers_at(
    file: tf.Tensor, start: tf.Tensor | int, *layout: tuple[int, int], order: str = "little"
) -> list[tf.Tensor]:
    """Reads several numbers of a file.

    Args:
      file: <string>[].
      start: <int64>[] place from which on the layout counts.
      layout: see `weights`.
      order: see `weights`.

    Returns:
      List of <int64>[].
    """
    count = max(first + width for first, width in layout)
    table = weights(layout, count, order=order)
    return tf.unstack(tf.reduce_sum(bytes_at(file, start, count) * table, axis=1), len(layout))


def contains(file: tf.Tensor, words: bytes | tf.Tensor) -> tf.Tensor:
    """Returns <bool>[] whether a file <string>[] contains some bytes anywhere; a fast search."""
    parts = tf.raw_ops.StringSplitV2(input=tf.expand_dims(file, 0), sep=words, maxsplit=1)
    return tf.size(parts.values) > 1


def find_chunk(
    file: tf.Tensor,
    start: int,
    mark: tf.Tensor,
    *,
    wanted: Callable[[tf.Tensor], tf.Tensor],
    following: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """Goes from chunk to chunk of a file, if it contains a mark anywhere.

    Args:
      file: <string>[].
      start: place of the first chunk.
      mark: <string>[] bytes in the chunk that is wanted.
      wanted: function of the place of a chunk to <bool>[], whether it is the one.
      following: function of the place of a chunk to that of the next, at or beyond the end of the
        file if there is none.

    Returns:
      <int64>[] place of the first chunk that is wanted; the end of the file if there is none.

    Raises:
      tf.errors.InvalidArgumentError: if it is not among the first `_MAX_CHUNKS`.
    """
    size = size_of(file)
    # A search is much faster than going from chunk to chunk, and mostly there is nothing to find.
    first = tf.where(contains(file, mark), tf.constant(start, tf.int64), size)
    (place,) = tf.while_loop(
        lambda place: (place < size) & ~wanted(place),
        lambda place: (following(place),),
        (first,),
        maximum_iterations=_MAX_CHUNKS,
    )
    ended = (place >= size) | wanted(place)
    return tf.minimum(require(place, ended, "file with too many chunks"), size)
