"""Raw records: consecutive records of TFRecord files, read in a fixed order."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import tensorflow as tf

# Files that are read in parallel, so that a window does not hold only neighbours of one file.
GROUP_SIZE = 16
# Consecutive records read from one file before the next file.
BLOCK_SIZE = 16
_BUFFER_BYTES = 256 * 1024


class RecordFile(NamedTuple):
    """A run of records in one TFRecord file.

    Attributes:
      path: the file.
      first: number of the first record of the run.
      count: records of the run; -1 means all up to the end of the file.
      mark: number of a record, at or before the first, at which reading starts.
      offset: the byte at which that record begins; in a compressed file 0.
    """

    path: str
    first: int
    count: int
    mark: int = 0
    offset: int = 0


class Source(Protocol):
    """Image-text records: `TfdsSource`, `TfrecordSource` or `LabelCaptions`.

    Attributes:
      name: used in reports and errors.
      files: list of RecordFile.
      compression: of the files, "" or "GZIP".
      has_captions: whether the records have captions.
      has_labels: whether the records have labels.
      label_names: a name for each label, or None.
    """

    name: str
    files: list[RecordFile]
    compression: str
    has_captions: bool
    has_labels: bool
    label_names: list[str] | None

    def parse(self, serialized: tf.Tensor, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Parses one record; see `TfrecordSource.parse`."""

    def why_no_caption(self, record: dict[str, tf.Tensor]) -> str:
        """Returns the reason why a parsed record has no caption."""


def stacked(files: Sequence[RecordFile]) -> RecordFile:
    """Returns a list of RecordFile as one RecordFile of tensors [n]."""
    columns = list(zip(*files)) or [()] * len(RecordFile._fields)
    return RecordFile(
        tf.constant(columns[0], tf.string), *(tf.constant(one, tf.int64) for one in columns[1:])
    )


def read_files(files: RecordFile, compression: str) -> tf.data.Dataset:
    """Reads raw records of some files, one group of `GROUP_SIZE` files after another.

    Args:
      files: RecordFile of tensors [n].
      compression: "" or "GZIP".

    Returns:
      tf.data.Dataset as that of `read_group`.
    """
    groups = tf.data.Dataset.from_tensor_slices(tuple(files)).batch(GROUP_SIZE)
    return groups.flat_map(lambda *group: read_group(RecordFile(*group), compression))


def read_group(files: RecordFile, compression: str) -> tf.data.Dataset:
    """Reads raw records of a group of files interleaved: in each round one block of every file.

    A file that has reached its end is skipped in later rounds.

    Args:
      files: RecordFile of tensors [n], n <= `GROUP_SIZE`.
      compression: "" or "GZIP".

    Returns:
      tf.data.Dataset of (path <string>[], number of the record in its file <int64>[], record
      <string>[]), always in the same order. It raises tf.errors.InvalidArgumentError if a file has
      fewer records than its run.
    """
    return tf.data.Dataset.from_tensor_slices(tuple(files)).interleave(
        lambda *file: _read_run(RecordFile(*file), compression),
        cycle_length=GROUP_SIZE,
        block_length=BLOCK_SIZE,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _read_run(file, compression):
    # tf.data.TFRecordDataset cannot start at an offset.
    reader = tf.raw_ops.TFRecordDatasetV2(
        filenames=file.path[None],
        compression_type=compression,
        buffer_size=_BUFFER_BYTES,
        byte_offsets=file.offset[None],
    )
    read = tf.data.experimental.from_variant(reader, tf.TensorSpec([], tf.string))
    numbered = read.enumerate(file.mark).skip(file.first - file.mark)
    # The appended element is read, and raises, only if the file has fewer records than the run.
    numbered = numbered.concatenate(_too_short(file)).take(file.count)
    return numbered.map(lambda number, record: (file.path, number, record))


def _too_short(file):
    def fail(path):
        rule = "A file of records must not become shorter while it is used. Received:"
        with tf.control_dependencies([tf.debugging.Assert(False, [rule, path])]):
            return tf.constant(0, tf.int64), tf.identity(path)

    known = tf.cast(file.count >= 0, tf.int64)
    return tf.data.Dataset.from_tensors(file.path).take(known).map(fail)


def raw_records(source: Source) -> tf.data.Dataset:
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
