"""Raw records: runs of them in TFRecord files, read in a fixed order."""

from typing import NamedTuple

import tensorflow as tf

# Files that are open at once, so that neighbours in one file do not meet in every window.
GROUP_SIZE = 16
# Records taken from one file before the next has its turn.
BLOCK_SIZE = 16
_BUFFER_BYTES = 256 * 1024


class RecordFile(NamedTuple):
    """A run of records in one TFRecord file.

    Attributes:
      path: the file.
      first: number of the first record of the run.
      count: records of the run; -1 means all to the end, however many there are.
      mark: number of a record, at or before the first, from which on the file is read.
      offset: the byte at which that record begins; in a compressed file 0.
    """

    path: str
    first: int
    count: int
    mark: int = 0
    offset: int = 0


def stacked(files):
    """Returns a list of RecordFile as one RecordFile of tensors [n]."""
    columns = list(zip(*files)) or [()] * len(RecordFile._fields)
    return RecordFile(
        tf.constant(columns[0], tf.string), *(tf.constant(one, tf.int64) for one in columns[1:])
    )


def read_files(files, compression):
    """Reads raw records of some files, one group of `GROUP_SIZE` files after the other.

    Args:
      files: RecordFile of tensors [n].
      compression: "" or "GZIP".

    Returns:
      tf.data.Dataset as that of `read_group`.
    """
    groups = tf.data.Dataset.from_tensor_slices(tuple(files)).batch(GROUP_SIZE)
    return groups.flat_map(lambda *group: read_group(RecordFile(*group), compression))


def read_group(files, compression):
    """Reads raw records of files that are open together: a block of each in turn, round by round.

    A file that is at its end is passed over in the rounds that follow.

    Args:
      files: RecordFile of tensors [n], of which there are up to `GROUP_SIZE`.
      compression: "" or "GZIP".

    Returns:
      tf.data.Dataset of (path <string>[], number of the record in its file <int64>[], record
      <string>[]), always in the same order. If a file ends before its run it raises
      tf.errors.InvalidArgumentError.
    """
    return tf.data.Dataset.from_tensor_slices(tuple(files)).interleave(
        lambda *file: _read_run(RecordFile(*file), compression),
        cycle_length=GROUP_SIZE,
        block_length=BLOCK_SIZE,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _read_run(file, compression):
    # tf.data.TFRecordDataset cannot begin at an offset.
    reader = tf.raw_ops.TFRecordDatasetV2(
        filenames=file.path[None],
        compression_type=compression,
        buffer_size=_BUFFER_BYTES,
        byte_offsets=file.offset[None],
    )
    read = tf.data.experimental.from_variant(reader, tf.TensorSpec([], tf.string))
    numbered = read.enumerate(file.mark).skip(file.first - file.mark)
    # What is appended is taken, and raises, only where the file has fewer records than the run.
    numbered = numbered.concatenate(_too_short(file)).take(file.count)
    return numbered.map(lambda number, record: (file.path, number, record))


def _too_short(file):
    def fail(path):
        rule = "A file of records must not become shorter while it is used. Received:"
        with tf.control_dependencies([tf.debugging.Assert(False, [rule, path])]):
            return tf.constant(0, tf.int64), tf.identity(path)

    known = tf.cast(file.count >= 0, tf.int64)
    return tf.data.Dataset.from_tensors(file.path).take(known).map(fail)


def raw_records(source):
    """Reads the raw records of a source once, in the order of its files.

    Returns:
      tf.data.Dataset as that of `read_group`.

    Raises:
      ValueError: if the source holds no record, or its files cannot be read as TFRecords.
    """
    dataset = read_files(stacked(source.files), source.compression)
    try:
        empty = not any(True for _ in dataset.take(1))
    except tf.errors.DataLossError as error:
        raise ValueError(
            f"The files of {source.name} must be TFRecords. Received: {error.message}"
        ) from error
    if empty:
        raise ValueError(f"A source must hold at least one record. Received: {source.name}, empty")
    return dataset
