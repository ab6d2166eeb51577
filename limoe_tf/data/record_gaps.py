"""What of a damaged file is lost: gaps between whole records, named and passed over.

A gap takes the place of one record in the order, since nothing says how many it held. In the stream
of records it is a text that is no record, and so a bad one: it begins with a byte with which no
`tf.train.Example` begins.
"""

import re
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from limoe_tf.data import record_headers
from limoe_tf.data.record_headers import FRAME_BYTES

_MARK = "\0gap"
_GAP = rb"\0gap\|([^|]*)\|(\d+)\|(\d+)"
_DAMAGED = "damage between whole records"
_CUT_OFF = "file is cut off, or damaged to its end"
_COMPRESSION = "compressed file is cut off, damaged, or more than one"
_TOO_FEW = "file has fewer records than its data set says"
_CHANGED = "A file of records must stay as it is while it is used. Received:"
_BUFFER_BYTES = 256 * 1024


class Gap(NamedTuple):
    """What is lost: why, and from which byte to which; both are 0 if that is not known."""

    reason: str
    begin: int
    end: int


def read_gap(record: bytes) -> Gap | None:
    """Returns the Gap that stands in place of a record, or None if it is a record.

    Args:
      record: bytes of an element of the stream.
    """
    found = re.fullmatch(_GAP, record)
    return found and Gap(found[1].decode(), int(found[2]), int(found[3]))


def number_in_words(number: int, record: bytes) -> str:
    """Returns the number of a record in its file and, of a gap, the bytes where it lies."""
    gap = read_gap(record)
    return f"{number} (bytes {gap.begin:,} to {gap.end:,})" if gap and gap.end else str(number)


def are_gaps(records: tf.Tensor) -> tf.Tensor:
    """Returns <bool>[...], True where <string>[...] is a gap."""
    return tf.strings.substr(records, 0, len(_MARK) + 1) == _MARK + "|"


def whole_records(path: tf.Tensor, compression: tf.Tensor, offset: tf.Tensor) -> tf.data.Dataset:
    """Reads the records of a file from a byte on, to its end or the first damage.

    Args:
      path: <string>[].
      compression: <string>[] "" or "GZIP".
      offset: <int64>[].

    Returns:
      tf.data.Dataset of <string>[], which TensorFlow takes only within the function of another.
    """
    # tf.data.TFRecordDataset cannot begin at an offset.
    reader = tf.raw_ops.TFRecordDatasetV2(
        filenames=path[None],
        compression_type=compression,
        buffer_size=_BUFFER_BYTES,
        byte_offsets=offset[None],
    )
    reader = tf.data.experimental.from_variant(reader, tf.TensorSpec([], tf.string))
    return reader.ignore_errors()


def read_on(
    file: NamedTuple, number: tf.Tensor, offset: tf.Tensor, *, most: int, in_graph: bool
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Reads what comes behind the place where reading a file stopped: whole records or a gap.

    Args:
      file: RecordFile of tensors [].
      number: <int64>[] place in the file's order of what comes next.
      offset: <int64>[] the byte behind what was read last; of a compressed file, of what is in it.
      most: the largest number of records to read.
      in_graph: False calls Python, which keeps the graph small; other hosts cannot call it.

    Returns:
      <string>[n] records or the text of a gap, nothing at the end; and the number and the offset
      behind them; the offset is -1 when nothing more can come.

    Raises:
      tf.errors.InvalidArgumentError: if the file has changed since it was looked at.
    """
    most = tf.constant(most, tf.int64)
    arguments = file.path, file.compression, file.size, file.stated, number, offset, most
    if in_graph:
        return _read_on(*arguments)
    types = [tf.string, tf.int64, tf.int64]
    block, number, offset = tf.numpy_function(_call_read_on, arguments, types)
    return tf.ensure_shape(block, [None]), tf.ensure_shape(number, []), tf.ensure_shape(offset, [])


def _call_read_on(path, compression, size, stated, number, offset, most):
    if (offset % 2**32 if compression else offset) == size and number >= stated:
        return np.array([], object), number, offset
    try:
        found = _read_on(path, compression, size, stated, number, offset, most)
        return [value.numpy() for value in found]
    except tf.errors.OpError as error:
        # Only errors of Python keep their text.
        raise ValueError(error.message) from error


@tf.function(
    input_signature=2 * [tf.TensorSpec([], tf.string)] + 5 * [tf.TensorSpec([], tf.int64)],
    autograph=False,
)
def _read_on(path, compression, size, stated, number, offset, most):
    plain = compression == ""
    unread = tf.where(plain, offset, offset % 2**32) != size

    def add_gap(reason, behind):
        return tf.constant([f"{_MARK}|{reason}|0|0"]), number + 1, behind

    # Behind damage in a compressed file nothing can be read.
    cases = [
        (offset < 0, lambda: (tf.zeros([0], tf.string), number, offset)),
        (unread & plain, lambda: _records_or_gap(path, size, number, offset, most)),
        (unread, lambda: add_gap(_COMPRESSION, size)),
        (number < stated, lambda: add_gap(_TOO_FEW, tf.constant(-1, tf.int64))),
    ]
    return tf.case(cases, default=cases[0][1])


def behind(block: tf.Tensor, number: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the number and the offset behind a block of records <string>[n]."""
    lengths = tf.cast(tf.strings.length(block), tf.int64)
    number += tf.size(block, out_type=tf.int64)
    return number, offset + tf.reduce_sum(lengths + FRAME_BYTES)


def _records_or_gap(path, size, number, offset, most):
    # TensorFlow takes this dataset only within the function of another.
    records = tf.data.Dataset.from_tensors(offset)
    records = records.flat_map(lambda offset: whole_records(path, "", offset)).take(most)
    nothing = tf.data.Dataset.from_tensors(tf.zeros([0], tf.string))
    block = records.batch(most).concatenate(nothing).take(1).get_single_element()

    def gap():
        end = record_headers.find(path, offset + 1, size)
        reason = tf.where(end < size, _DAMAGED, _CUT_OFF)
        text = tf.strings.join([_MARK, reason, tf.as_string(offset), tf.as_string(end)], "|")
        return text[None], number + 1, end

    grown = tf.debugging.Assert(offset <= size, [_CHANGED, path])
    with tf.control_dependencies([grown]):
        return tf.cond(tf.size(block) > 0, lambda: (block, *behind(block, number, offset)), gap)
