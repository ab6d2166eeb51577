"""What of a damaged file is lost: gaps between whole records, named and passed over.

A gap takes the place of one record in the order, since nothing says how many it held. In the stream
of records it is a text that is no record, and so a bad one: it begins with a byte with which no
`tf.train.Example` begins.
"""

from typing import NamedTuple

import tensorflow as tf

from limoe_tf.data import record_headers
from limoe_tf.data.record_headers import FRAME_BYTES, HEADER_BYTES

_MARK = "\0gap"
_CHECKSUM = "checksum of a record does not fit"
_DAMAGED = "damage between records"
_CUT_OFF = "file is cut off within a record"
_COMPRESSION = "compressed file is damaged or cut off"
_TOO_FEW = "file has fewer records than its data set says"
_GROWN = "A file of records must stay as it is while it is used. Received:"
_BUFFER_BYTES = 256 * 1024


class Pieces(NamedTuple):
    """Pieces of a file: runs of whole records, each with a gap behind it.

    Attributes:
      number: <int64>[n] place of the first record of the run in the file's order.
      offset: <int64>[n] the byte at which it begins.
      count: <int64>[n] whole records of the run.
      gap: <string>[n] text for the gap; empty if there is none.
    """

    number: tf.Tensor
    offset: tf.Tensor
    count: tf.Tensor
    gap: tf.Tensor


class Gap(NamedTuple):
    """What is lost: why, and from which byte to which; both are 0 if that is not known."""

    reason: str
    begin: int
    end: int


def read_gap(record):
    """Returns the Gap that stands in place of a record, or None if it is a record.

    Args:
      record: bytes of an element of the stream.
    """
    mark, *parts = record.decode("utf-8", "replace").split("|")
    if mark != _MARK or len(parts) != 3:
        return None
    return Gap(parts[0], int(parts[1]), int(parts[2]))


def are_gaps(records):
    """Returns <bool>[...], True where <string>[...] is a gap."""
    return tf.strings.substr(records, 0, len(_MARK) + 1) == _MARK + "|"


def whole_records(path, compression, offset):
    """Reads the records of a file from a byte on, to its end or the first damage.

    Args:
      path: <string>[].
      compression: <string>[] "" or "GZIP".
      offset: <int64>[].

    Returns:
      tf.data.Dataset of <string>[].
    """

    # TensorFlow cannot serialize this dataset, but a function that makes it.
    def read(path, compression, offset):
        # tf.data.TFRecordDataset cannot begin at an offset.
        reader = tf.raw_ops.TFRecordDatasetV2(
            filenames=path[None],
            compression_type=compression,
            buffer_size=_BUFFER_BYTES,
            byte_offsets=offset[None],
        )
        return tf.data.experimental.from_variant(reader, tf.TensorSpec([], tf.string))

    one = tf.data.Dataset.from_tensors((path, compression, offset))
    return one.flat_map(read).ignore_errors()


def none():
    """Returns no Pieces."""
    numbers = tf.zeros([0], tf.int64)
    return Pieces(numbers, numbers, numbers, tf.zeros([0], tf.string))


@tf.function(
    input_signature=2 * [tf.TensorSpec([], tf.string)] + 4 * [tf.TensorSpec([], tf.int64)],
    autograph=False,
)
def rest(path, compression, size, stated, number, offset):
    """Finds what there is of a file behind the place where reading stopped.

    Args:
      path: <string>[].
      compression: <string>[], see `records.RecordFile`.
      size: <int64>[], see `records.RecordFile`.
      stated: <int64>[], see `records.RecordFile`.
      number: <int64>[] place in the file's order of what comes next.
      offset: <int64>[] the byte behind the last whole record; of a compressed file, of what is in
        it.

    Returns:
      Pieces.

    Raises:
      tf.errors.InvalidArgumentError: if the file has changed since it was looked at.
    """
    found = tf.cond(
        compression == "",
        lambda: _plain(path, size, number, offset),
        lambda: _compressed(path, compression, number, offset),
    )
    number += tf.reduce_sum(found.count) + tf.math.count_nonzero(found.gap)
    too_few = _piece(number, offset, 0, _text(_TOO_FEW, 0, 0))
    lacking = tf.cast(number < stated, tf.int64)
    return Pieces(*(tf.concat([a, b[:lacking]], 0) for a, b in zip(found, too_few)))


def _plain(path, size, number, offset):
    def unread(number, offset, pieces):
        del number, pieces
        return offset < size

    def add(number, offset, pieces):
        count, end = _run(path, offset)
        gap, behind = tf.cond(
            end == size,
            lambda: (tf.constant(""), end),
            lambda: _gap(path, end, size),
        )
        piece = _piece(number, offset, count, gap)
        number += count + tf.cast(gap != "", tf.int64)
        return number, behind, Pieces(*(tf.concat(both, 0) for both in zip(pieces, piece)))

    grown = tf.debugging.Assert(offset <= size, [_GROWN, path])
    with tf.control_dependencies([grown]):
        begin = (number, tf.identity(offset), none())
    scalar, pieces = tf.TensorShape([]), Pieces(*[tf.TensorShape([None])] * 4)
    shapes = (scalar, scalar, pieces)
    return tf.while_loop(unread, add, begin, shape_invariants=shapes)[-1]


def _run(path, offset):
    """Returns how many whole records follow a byte, and the byte behind them, both <int64>[]."""

    def add(state, record):
        return state[0] + 1, state[1] + tf.cast(tf.strings.length(record), tf.int64) + FRAME_BYTES

    records = whole_records(path, tf.constant(""), offset)
    return records.reduce((tf.constant(0, tf.int64), offset), add)


def _gap(path, begin, size):
    """Returns the text for the gap that begins at a byte, and where it ends."""
    length = record_headers.length_at(path, begin, size)
    end = begin + length + FRAME_BYTES
    whole = (length >= 0) & (end <= size)
    if_whole = tf.cond(
        whole & (end < size),
        lambda: record_headers.length_at(path, end, size) >= 0,
        lambda: whole,
    )
    behind = tf.cond(
        if_whole, lambda: end, lambda: record_headers.find(path, begin + 1, size, size)
    )
    cut_off = (behind == size) & ((size - begin < HEADER_BYTES) | (length >= 0))
    reason = tf.where(if_whole, _CHECKSUM, tf.where(cut_off, _CUT_OFF, _DAMAGED))
    return _text(reason, begin, behind), behind


def _compressed(path, compression, number, offset):
    """Returns a gap if reading a compressed file ended with an error or within a header."""
    records = whole_records(path, compression, tf.constant(0, tf.int64))
    end = tf.data.Dataset.from_tensors("")
    # An error takes a number, so that it shows in the number of what comes behind it.
    numbered = tf.data.Dataset.zip((tf.data.Dataset.counter(), records.concatenate(end)))
    last = numbered.ignore_errors().reduce(tf.constant(0, tf.int64), lambda _, one: one[0])
    blocks = tf.raw_ops.FixedLengthRecordDatasetV2(
        filenames=path[None],
        header_bytes=offset,
        record_bytes=tf.constant(1, tf.int64),
        footer_bytes=tf.constant(0, tf.int64),
        buffer_size=tf.constant(_BUFFER_BYTES, tf.int64),
        compression_type=compression,
    )
    blocks = tf.data.experimental.from_variant(blocks, tf.TensorSpec([], tf.string))
    more = blocks.ignore_errors().take(1).reduce(tf.constant(0), lambda count, _: count + 1)
    damaged = tf.cast((last != number) | (more > 0), tf.int64)
    gap = _piece(number, offset, 0, _text(_COMPRESSION, 0, 0))
    return Pieces(*(values[:damaged] for values in gap))


def _text(reason, begin, end):
    return tf.strings.join([_MARK, reason, tf.as_string(begin), tf.as_string(end)], "|")


def _piece(number, offset, count, gap):
    numbers = (tf.cast(value, tf.int64)[None] for value in (number, offset, count))
    return Pieces(*numbers, gap[None])
