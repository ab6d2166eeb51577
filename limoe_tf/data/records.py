"""Raw records: runs of them in TFRecord files, read in a fixed order."""

from typing import NamedTuple

import tensorflow as tf


class RecordFile(NamedTuple):
    """A run of records in one TFRecord file.

    Attributes:
      path: the file.
      first: number of the first record of the run.
      count: records of the run; -1 means all to the end.
    """

    path: str
    first: int
    count: int


def read_files(source, files):
    """Reads raw records of some files of a source, one after the other.

    Args:
      source: TfdsSource or TfrecordSource.
      files: RecordFile of tensors: <string>[n], <int64>[n], <int64>[n].

    Returns:
      tf.data.Dataset of (path <string>[], number of the record in its file <int64>[], record
      <string>[]), always in the same order.
    """

    def read(path, first, count):
        numbered = tf.data.TFRecordDataset(path, source.compression).enumerate()
        return numbered.skip(first).take(count).map(lambda number, record: (path, number, record))

    # Several files are open at once, so that neighbours in one file do not meet in every window.
    return tf.data.Dataset.from_tensor_slices(tuple(files)).interleave(
        read,
        cycle_length=16,
        block_length=16,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def raw_records(source):
    """Reads the raw records of a source once, in the order of its files.

    Returns:
      tf.data.Dataset as that of `read_files`.

    Raises:
      ValueError: if the source holds no record, or its files cannot be read as TFRecords.
    """
    dataset = read_files(source, stacked(source.files))
    try:
        empty = not any(True for _ in dataset.take(1))
    except tf.errors.DataLossError as error:
        raise ValueError(
            f"The files of {source.name} must be TFRecords. Received: {error.message}"
        ) from error
    if empty:
        raise ValueError(f"A source must hold at least one record. Received: {source.name}, empty")
    return dataset


def stacked(files):
    """Returns a list of RecordFile as one RecordFile of tensors."""
    paths, firsts, counts = zip(*files)
    return RecordFile(
        tf.constant(paths), tf.constant(firsts, tf.int64), tf.constant(counts, tf.int64)
    )
