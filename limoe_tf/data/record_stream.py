"""The endless stream of a source's records, which can start at any position without reading all.

Each epoch has another order of the files. Groups of them are interleaved, in rounds of a block of
records of each, so the place in the files of any position follows from their numbers of records.
"""

import bisect

import numpy as np
import tensorflow as tf

from limoe_tf.data import records
from limoe_tf.data.record_index import RecordIndex


def endless_records(
    source: records.Source,
    *,
    seed: int,
    first: int = 0,
    index: RecordIndex | None = None,
    in_graph: bool = False,
) -> tf.data.Dataset:
    """Reads the endless stream of the records of a source.

    The record at a position depends on the source, `seed` and the position only. Less than
    `record_index.MARK_EVERY` records of an uncompressed file and less than one round of a group of
    files are read and skipped before `first`; a compressed file is read from its beginning.

    Args:
      source: TfdsSource, TfrecordSource, TextSource or LabelCaptions.
      seed: decides the order of the files.
      first: position of the first record.
      index: RecordIndex, to which the source's files are added; None makes one in memory if `first`
        requires it.
      in_graph: see `record_gaps.read_on`.

    Returns:
      tf.data.Dataset as that of `records.read_group`.

    Raises:
      ValueError: if the source is empty.
    """
    if index is None and first == 0:
        records.check_not_empty(source)  # The stream would search for a record forever.
        return _epochs(source.files, 0, 0, seed=seed, in_graph=in_graph)
    index = RecordIndex() if index is None else index
    runs = index.runs(source)
    epoch, place = divmod(first, sum(run.count for run in runs))
    order = permutation(len(runs), seed, tf.constant(epoch, tf.int64)).numpy()
    opened, passed, end = _opened([runs[number] for number in order], place)
    opened = records.stacked([index.marked(run) for run in opened])
    of_lines = records.are_of_lines(runs)
    begun = records.read_group(opened, of_lines=of_lines, in_graph=in_graph).skip(passed)
    rest = _epochs(runs, epoch, end, seed=seed, in_graph=in_graph)
    return begun.concatenate(rest)


def permutation(size: int, seed: int | tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Returns <int64>[size]: the permutation of 0 to size - 1 of a seed and a number."""
    places = tf.range(size, dtype=tf.int64)
    return tf.random.experimental.stateless_shuffle(places, tf.stack([seed, number]))


def _epochs(runs, first, done, *, seed, in_graph):
    """Reads endless epochs; of the first one the files before number `done` are skipped."""
    files = records.stacked(runs)

    def read_epoch(epoch):
        order = permutation(len(runs), seed, epoch)[tf.where(epoch == first, done, 0) :]
        shuffled = records.RecordFile(*(tf.gather(values, order) for values in files))
        return records.read_files(shuffled, of_lines=records.are_of_lines(runs), in_graph=in_graph)

    return tf.data.Dataset.counter(first).flat_map(read_epoch)


def _opened(runs, place):
    """Finds a place in an epoch.

    Args:
      runs: RecordFiles in the epoch's order.
      place: number of a record in the epoch.

    Returns:
      The rest of the files of the place's group, from the beginning of its round on; the number of
      records of the round before the place; and the number of files up to the group's end.
    """
    groups = [runs[i : i + records.GROUP_SIZE] for i in range(0, len(runs), records.GROUP_SIZE)]
    ends = np.cumsum([sum(run.count for run in group) for group in groups])
    number = int(np.searchsorted(ends, place, side="right"))
    group = groups[number]
    counts = np.array([run.count for run in group])
    place -= ends[number] - counts.sum()

    def before(turn):
        return np.minimum(counts, turn * records.BLOCK_SIZE).sum()

    rounds = range(counts.max() // records.BLOCK_SIZE + 1)
    turn = bisect.bisect_right(rounds, place, key=before) - 1
    done = np.minimum(counts, turn * records.BLOCK_SIZE).tolist()
    opened = [
        run._replace(first=run.first + read, count=run.count - read)
        for run, read in zip(group, done)
        if read < run.count
    ]
    return opened, int(place - before(turn)), (number + 1) * records.GROUP_SIZE
