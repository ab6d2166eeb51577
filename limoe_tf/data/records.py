"""Raw records: consecutive records of files, read in a fixed order."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import tensorflow as tf

from limoe_tf.data import lines, record_gaps

# Files that are read in parallel, so that a window does not hold only neighbours of one file.
GROUP_SIZE = 16
# Consecutive records read from one file before the next file.
BLOCK_SIZE = 16
# Records of a file that are looked at together.
_READ_TOGETHER = 32


class RecordFile(NamedTuple):
    """A run of records in one file; `record_heads` completes what is made of a path.

    Attributes:
      path: the file.
      first: number of the first record of the run. A gap in a damaged file counts as one record.
      count: records of the run; -1 means all up to the end of the file.
      mark: number of a record, at or before the first, at which reading starts.
      offset: the byte at which that record begins; in a compressed file 0.
      size: bytes of the file; of what is in a compressed file, modulo 4 GiB.
      compression: "" or "GZIP".
      stated: records that the file has if its data set says so, else -1.
      of_lines: whether the file is a text whose lines are the records, not a TFRecord file; the
        same for all files of a source.
    """

    path: str
    first: int
    count: int
    mark: int = 0
    offset: int = 0
    size: int = 0
    compression: str = ""
    stated: int = -1
    of_lines: bool = False


class Source(Protocol):
    """Image-text records: `TfdsSource`, `TfrecordSource`, `TextSource` or `LabelCaptions`.

    Attributes:
      name: used in reports and errors.
      files: list of RecordFile.
      has_images: whether the records have images.
      has_captions: whether the records have captions.
      has_labels: whether the records have labels.
      label_names: a name for each label, or None.
    """

    name: str
    files: list[RecordFile]
    has_images: bool
    has_captions: bool
    has_labels: bool
    label_names: list[str] | None

    def parse(self, serialized: tf.Tensor, seed: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Parses one record; see `TfrecordSource.parse`."""

    def why_no_caption(self, record: dict[str, tf.Tensor]) -> str:
        """Returns the reason why a parsed record has no caption."""


def stacked(files: Sequence[RecordFile]) -> RecordFile:
    """Returns a list of RecordFile as one RecordFile of tensors [n]."""
    columns = zip(RecordFile._fields, list(zip(*files)) or [()] * len(RecordFile._fields))
    dtypes = {"path": tf.string, "compression": tf.string, "of_lines": tf.bool}
    return RecordFile(
        *(tf.constant(values, dtypes.get(name, tf.int64)) for name, values in columns)
    )


def are_of_lines(files: Sequence[RecordFile]) -> bool:
    """Returns whether the records of a source's files are lines of text."""
    return any(file.of_lines for file in files)


def read_files(
    files: RecordFile, *, of_lines: bool = False, in_graph: bool = False
) -> tf.data.Dataset:
    """Reads raw records of some files, one group of `GROUP_SIZE` files after another.

    Args:
      files: RecordFile of tensors [n].
      of_lines: that of these files, known before they are read.
      in_graph: see `record_gaps.read_on`.

    Returns:
      tf.data.Dataset as that of `read_group`.
    """
    groups = tf.data.Dataset.from_tensor_slices(tuple(files)).batch(GROUP_SIZE)
    return groups.flat_map(
        lambda *group: read_group(RecordFile(*group), of_lines=of_lines, in_graph=in_graph)
    )


def read_group(
    files: RecordFile, *, of_lines: bool = False, in_graph: bool = False
) -> tf.data.Dataset:
    """Reads raw records of a group of files interleaved: in each round one block of every file.

    A file that has reached its end is skipped in later rounds.

    Args:
      files: RecordFile of tensors [n], n <= `GROUP_SIZE`.
      of_lines: see `read_files`.
      in_graph: see `record_gaps.read_on`.

    Returns:
      tf.data.Dataset of (path <string>[], number of the record in its file <int64>[], record
      <string>[]), always in the same order. What is lost between whole records of a damaged file
      comes as a text in place of one record, see `record_gaps`. The dataset raises
      tf.errors.InvalidArgumentError if a file has changed since `record_heads.look`.
    """
    return tf.data.Dataset.from_tensor_slices(tuple(files)).interleave(
        lambda *file: _read_run(RecordFile(*file), of_lines, in_graph),
        cycle_length=GROUP_SIZE,
        block_length=BLOCK_SIZE,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _read_run(file, of_lines, in_graph):
    run = _lines_from_mark(file) if of_lines else _records_from_mark(file, in_graph)
    # The appended element is read, and raises, only if the file has fewer records than the run.
    return run.skip(file.first - file.mark).concatenate(_too_short(file)).take(file.count)


def _lines_from_mark(file):
    return lines.read(file.path, size=file.size, number=file.mark, offset=file.offset)


def _records_from_mark(file, in_graph):
    read = record_gaps.whole_records(file.path, file.compression, file.offset)
    # Where it stops, empty blocks are filled with what else there is of the file.
    stopped = tf.data.Dataset.from_tensors(tf.zeros([0], tf.string)).repeat()
    blocks = read.batch(_READ_TOGETHER).concatenate(stopped)

    def add_places(state, block):
        block, *state = tf.cond(
            tf.size(block) > 0,
            lambda: (block, *record_gaps.behind(block, *state)),
            lambda: record_gaps.read_on(file, *state, most=_READ_TOGETHER, in_graph=in_graph),
        )
        count = tf.size(block, out_type=tf.int64)
        return tuple(state), (
            tf.fill([count], file.path),
            state[0] - count + tf.range(count),
            block,
        )

    blocks = blocks.scan((file.mark, file.offset), add_places)
    return blocks.take_while(lambda *block: tf.size(block[0]) > 0).unbatch()


def _too_short(file):
    def fail(path):
        rule = "A file of records must not become shorter while it is used. Received:"
        with tf.control_dependencies([tf.debugging.Assert(False, [rule, path])]):
            return path, tf.constant(0, tf.int64), tf.identity(path)

    known = tf.cast((file.count >= 0) & (file.stated < 0), tf.int64)
    return tf.data.Dataset.from_tensors(file.path).take(known).map(fail)


def check_not_empty(source: Source) -> None:
    """Raises ValueError if a source holds no record."""
    # Of a TFRecord file with bytes comes a record, or what is lost of one, but the lines of a text
    # may all be blank. Reading to know it takes longer.
    if any(file.size > 0 and file.count != 0 and not file.of_lines for file in source.files):
        return
    if not any(True for _ in _read_all(source).take(1)):
        raise ValueError(f"A source must hold at least one record. Received: {source.name}, empty")


def raw_records(source: Source) -> tf.data.Dataset:
    """Reads the raw records of a source once, in the order of its files.

    Returns:
      tf.data.Dataset as that of `read_group`.

    Raises:
      ValueError: if the source holds no record.
    """
    check_not_empty(source)
    return _read_all(source)


def _read_all(source):
    return read_files(stacked(source.files), of_lines=are_of_lines(source.files))
