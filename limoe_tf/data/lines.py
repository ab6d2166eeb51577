"""The lines of a text file, read from any byte on; a blank line is none.

A file is read in chunks, since tf.data's reader of lines cannot begin at an offset.
"""

import tensorflow as tf

from limoe_tf.data import record_headers

_CHUNK_BYTES = 1 << 20
# Of a line that goes on in the next chunk no more is kept: it is too long to be used in any case.
_MOST_BYTES = 1 << 16


def read(
    path: tf.Tensor, *, size: tf.Tensor, number: tf.Tensor, offset: tf.Tensor
) -> tf.data.Dataset:
    """Reads the lines of a file from a byte on, stripped of white space, without blank ones.

    Args:
      path: <string>[].
      size: <int64>[] bytes of the file.
      number: <int64>[] number in the file of the first line, blank ones not counted.
      offset: <int64>[] the byte at which that line begins.

    Returns:
      tf.data.Dataset of (path <string>[], number <int64>[], line <string>[]). It raises a
      tf.errors.OpError that names the file if it has another size now.
    """

    def with_places(first, _, found):
        count = tf.size(found, out_type=tf.int64)
        return tf.fill([count], path), first + tf.range(count), found

    return _blocks(path, size, number, offset).map(with_places).unbatch()


def begins(path: str, *, size: int) -> tf.data.Dataset:
    """Reads where the lines that are not blank begin.

    Args:
      path: of the file.
      size: its bytes.

    Returns:
      tf.data.Dataset of <int64>[n], bytes in ascending order.
    """
    zero = tf.constant(0, tf.int64)
    blocks = _blocks(tf.constant(path), tf.constant(size, tf.int64), zero, zero)
    return blocks.map(lambda number, begin, found: begin)


def _blocks(path, size, number, offset):
    """Returns a dataset of the lines that end in each chunk.

    Its elements are the number of the first <int64>[], the bytes at which they begin <int64>[n],
    and they themselves <string>[n].
    """

    def split(state, chunk):
        number, place, begin, start = state  # `start` is of the line that begins at `begin`.
        after = place + tf.cast(tf.strings.length(chunk), tf.int64)
        end = tf.where(after == size, "\n", "")
        pieces = tf.strings.split(tf.strings.join([chunk, end]), "\n")
        lengths = tf.cast(tf.strings.length(pieces), tf.int64) + 1
        places = tf.concat([begin[None], place + tf.cumsum(lengths)[:-1]], 0)
        found = tf.concat([tf.strings.join([start, pieces[0]])[None], pieces[1:]], 0)
        start = tf.strings.substr(found[-1], 0, _MOST_BYTES)
        found = tf.strings.strip(found[:-1])
        is_line = found != ""
        block = number, tf.boolean_mask(places[:-1], is_line), tf.boolean_mask(found, is_line)
        number += tf.math.count_nonzero(is_line)
        return (number, after, places[-1], start), block

    return _chunks(path, size, offset).scan((number, offset, offset, tf.constant("")), split)


def _chunks(path, size, offset):
    """Returns a dataset of <string>[], the bytes of a file from one on; the first may be few."""
    # TensorFlow reads through all that is in front of the first byte, so a last chunk of another
    # size, read by itself, would cost as much as the whole file.
    few = (size - offset) % _CHUNK_BYTES
    first = tf.data.Dataset.range(tf.minimum(few, 1)).map(
        lambda _: record_headers.read_bytes(path, offset, few, size)
    )
    begin = offset + few
    rest = tf.raw_ops.FixedLengthRecordDatasetV2(
        filenames=tf.repeat(path, tf.cast(begin < size, tf.int32)),
        header_bytes=begin,
        record_bytes=tf.constant(_CHUNK_BYTES, tf.int64),
        footer_bytes=tf.constant(0, tf.int64),
        buffer_size=tf.constant(_CHUNK_BYTES, tf.int64),
        compression_type="",
    )
    return first.concatenate(tf.data.experimental.from_variant(rest, tf.TensorSpec([], tf.string)))
