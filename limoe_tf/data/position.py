"""The order of records, as a function of seed and position: windows of raw records."""

import tensorflow as tf

from limoe_tf.data import sources


def shuffled_windows(source, *, size, seed, first):
    """Reads the windows of a source without end, shuffled.

    In each epoch the files come in another order. The stream of their records is cut into
    windows, also across epochs; each is shuffled by itself. Window number n depends on the
    source, `size`, `seed` and n only.

    Args:
      source: TfdsSource or TfrecordSource.
      size: W, records of a window.
      seed: decides the orders of files and records.
      first: number of the first window. The records before it are read over.

    Returns:
      tf.data.Dataset of windows: the position of the first record <int64>[], the order in which
      records are to be taken <int64>[W], and the records as (path <string>[W], number in the file
      <int64>[W], record <string>[W]).

    Raises:
      ValueError: if the source is empty.
    """
    sources.raw_records(source)  # Raises if there is none; the stream would search for ever.
    files = sources.stacked(source.files)

    def read_epoch(epoch):
        order = _permutation(len(source.files), seed, epoch)
        shuffled = sources.RecordFile(*(tf.gather(values, order) for values in files))
        return sources.read_files(source, shuffled)

    def add_order(number, window):
        # The sign keeps these seeds apart from those of the files.
        return number * size, _permutation(size, seed, -1 - number), window

    records = tf.data.Dataset.counter().flat_map(read_epoch).skip(first * size)
    windows = records.batch(size, drop_remainder=True).prefetch(1)
    return windows.enumerate(first).map(add_order)


def plain_windows(source, *, size):
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
        return number * size, tf.range(tf.size(window[0], out_type=tf.int64)), window

    return sources.raw_records(source).batch(size).prefetch(1).enumerate().map(add_order)


def _permutation(size, seed, number):
    places = tf.range(size, dtype=tf.int64)
    return tf.random.experimental.stateless_shuffle(places, tf.stack([seed, number]))
