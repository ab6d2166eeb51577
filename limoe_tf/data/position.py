"""The order of records, as a function of seed and position: windows of raw records."""

import bisect
from collections.abc import Callable, Sequence

import tensorflow as tf

from limoe_tf.data import record_stream, records
from limoe_tf.data.record_index import RecordIndex


class HostPart:
    """The examples of one host: its consecutive rows of every global batch.

    Args:
      batch_size: B, examples of a global batch.
      context: `tf.distribute.InputContext`, or None if there is one host and one replica.
      places: the rows of a batch that the stream of examples fills, in ascending order; None for
        all.

    Attributes:
      num_parts: number of hosts.
      replica_batch: rows of one replica.
      rows: range of the host's rows.

    Raises:
      ValueError: if B cannot be divided by the number of replicas.
    """

    def __init__(
        self,
        batch_size: int,
        context: "tf.distribute.InputContext | None",
        places: Sequence[int] | None = None,
    ):
        self.num_parts = context.num_input_pipelines if context else 1
        replicas = context.num_replicas_in_sync if context else 1
        if batch_size % replicas:
            raise ValueError(
                f"`batch_size` must be divisible by the {replicas} replicas. "
                f"Received: batch_size={batch_size}"
            )
        self.replica_batch = batch_size // replicas
        num_rows = batch_size // self.num_parts
        first_row = num_rows * (context.input_pipeline_id if context else 0)
        self.rows = range(first_row, first_row + num_rows)
        places = range(batch_size) if places is None else places
        self._cycle = len(places)
        self._first = bisect.bisect_left(places, self.rows.start)
        self._count = bisect.bisect_left(places, self.rows.stop) - self._first

    def holds(self, positions: tf.Tensor) -> tf.Tensor:
        """Returns <bool>[W]: which positions of the stream belong to this host."""
        places = positions % self._cycle - self._first
        return (places >= 0) & (places < self._count)

    def size(self, end: int) -> int:
        """Returns how many of the positions before `end` belong to this host."""
        batches, places = divmod(end, self._cycle)
        return batches * self._count + min(max(places - self._first, 0), self._count)


def shuffled_windows(
    source: records.Source,
    *,
    size: int,
    seed: int,
    first: int,
    is_mine: Callable[[tf.Tensor], tf.Tensor] | None = None,
    index: RecordIndex | None = None,
    in_graph: bool = False,
) -> tf.data.Dataset:
    """Reads the endless sequence of shuffled windows of a source.

    The stream of `record_stream.endless_records` is split into windows, also across epochs; each is
    shuffled independently. Window number n depends on the source, `size`, `seed` and n only.

    Args:
      source: TfdsSource or TfrecordSource.
      size: W, records of a window.
      seed: decides the orders of files and records.
      first: number of the first window. The records before it are not read.
      is_mine: function of positions in the stream <int64>[W] to <bool>[W], which of them to
        load; None for all.
      index: see `record_stream.endless_records`.
      in_graph: see `record_gaps.read_on`.

    Returns:
      tf.data.Dataset of windows: the positions to load <int64>[n], the index in the window of the
      record of each <int64>[n], and the records as (path <string>[W], number in the file
      <int64>[W], record <string>[W]).

    Raises:
      ValueError: if the source is empty.
    """

    def add_order(number, window):
        positions = number * size + tf.range(size, dtype=tf.int64)
        # The sign makes these seeds differ from those of the files.
        order = record_stream.permutation(size, seed, -1 - number)
        if is_mine is not None:
            mine = is_mine(positions)
            positions, order = tf.boolean_mask(positions, mine), tf.boolean_mask(order, mine)
        return positions, order, window

    stream = record_stream.endless_records(
        source, seed=seed, first=first * size, index=index, in_graph=in_graph
    )
    windows = stream.batch(size, drop_remainder=True).prefetch(1)
    return windows.enumerate(first).map(add_order)


def plain_windows(source: records.Source, *, size: int) -> tf.data.Dataset:
    """Reads the windows of a source once, in the order of its files; the last may be smaller.

    Args:
      source: TfdsSource or TfrecordSource.
      size: W, records of a window.

    Returns:
      tf.data.Dataset as that of `shuffled_windows`.

    Raises:
      ValueError: if the source is empty.
    """

    def add_order(number, window):
        order = tf.range(tf.size(window[0], out_type=tf.int64))
        return number * size + order, order, window

    return records.raw_records(source).batch(size).prefetch(1).enumerate().map(add_order)
