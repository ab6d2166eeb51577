"""Skipping of bad records: they are counted with reasons, and too many stop reading."""

import collections
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data import record_gaps
from limoe_tf.data.faults import explain
from limoe_tf.data.records import Source

_PLACES_PER_REASON = 3
# Some reasons quote the record, so that there may be as many of them as records.
_MOST_REASONS = 100
_MOST_REASONS_SHOWN = 20
_OTHER_REASON = "other reasons"


class BadRecords:
    """The bad records found so far: their number, places and reasons.

    Records are prefetched, so the counts include records that are still to be trained on. A
    dataset that is read twice counts its bad records once.

    Args:
      max_share: reading stops with an error when more than this share of the records is bad.
      min_records: the share is relative to at least this many records, so that a single bad
        record at the start does not stop reading.
    """

    def __init__(self, *, max_share: float = 0.1, min_records: int = 1000):
        self.max_share = checks.number_in("max_share", max_share, 0, 1)
        self.min_records = checks.positive_int("min_records", min_records)
        self.begin(0)

    def begin(self, first: int) -> None:
        """Resets the counts; records count from position `first` of the reading order on."""
        self._count = 0
        self._reasons = collections.Counter()
        self._error = None
        self._places = collections.defaultdict(list)
        self._first = first
        self._last = first - 1
        self._sources = {}

    def of_sources(self, names: Sequence[str]) -> "list[BadRecords]":
        """Resets the counts and returns the BadRecords of each of several interleaved sources.

        The limits apply to each source separately; the counts of this object are the totals. A
        single source is counted in this object.
        """
        self.begin(0)
        if len(names) == 1:
            return [self]
        limits = {"max_share": self.max_share, "min_records": self.min_records}
        self._sources = {name: BadRecords(**limits) for name in names}
        return list(self._sources.values())

    @property
    def count(self) -> int:
        """Number of bad records."""
        return self._count + sum(source.count for source in self._sources.values())

    @property
    def reasons(self) -> collections.Counter[str]:
        """Counter of bad records by reason."""
        return sum((source.reasons for source in self._sources.values()), self._reasons)

    @property
    def error(self) -> ValueError | None:
        """The ValueError that stopped reading, or None.

        tf.data re-raises it as a tf.errors.InvalidArgumentError with the same text.
        """
        errors = (source.error for source in self._sources.values())
        return self._error or next(filter(None, errors), None)

    def note(self, position: int, path: str, number: int, reason: str) -> None:
        """Counts one bad record.

        Args:
          position: position of the record in the reading order.
          path: its file.
          number: its number in the file, or that and more words.
          reason: what is wrong with it.

        Raises:
          ValueError: if the share of bad records is now too large.
        """
        if position <= self._last:
            return
        self._last = position
        self._count += 1
        if reason not in self._reasons and len(self._reasons) >= _MOST_REASONS:
            reason = _OTHER_REASON
        self._reasons[reason] += 1
        places, place = self._places[reason], f"{path} record {number}"
        if len(places) < _PLACES_PER_REASON and place not in places:
            places.append(place)
        if self._count > self.max_share * max(self._num_read(), self.min_records):
            self._stop(f"At most a share of {self.max_share:g} of the records may be bad.")

    def note_lost(self, position: int, refill: bool) -> None:
        """Stops reading after a window without any valid record.

        Args:
          position: position of the window's last record in the reading order.
          refill: if False, valid records before the window are sufficient to continue.

        Raises:
          ValueError: if reading must stop.
        """
        if refill or self._count == position + 1 - self._first:
            self._stop("At least one record must be valid.")

    @contextlib.contextmanager
    def as_value_error(self) -> Iterator[None]:
        """Context manager for code that reads: raises `error` itself instead of tf.data's error."""
        try:
            yield
        except tf.errors.InvalidArgumentError:
            if self.error is None:
                raise
            raise self.error from None

    def report(self) -> str:
        """Returns the counts, reasons and first places as one line, for several sources by name."""
        if self._sources:
            parts = (f"{name}: {source.report()}" for name, source in self._sources.items())
            return "; ".join(parts)
        if not self._count:
            return "no bad records"
        reasons = "; ".join(
            f"{count} x {reason} ({', '.join(self._places[reason])}"
            f"{', ...' if len(self._places[reason]) == _PLACES_PER_REASON else ''})"
            for reason, count in self._reasons.most_common(_MOST_REASONS_SHOWN)
        )
        if (others := len(self._reasons) - _MOST_REASONS_SHOWN) > 0:
            reasons += f"; {others} more reasons"
        return f"{self._count} bad among the first {self._num_read()} records read: {reasons}"

    def _stop(self, rule):
        self._error = ValueError(f"{rule} Received: {self.report()}")
        raise self._error

    def _num_read(self):
        return self._last + 1 - self._first


def skip_bad(
    load: Callable[[tf.Tensor, tf.Tensor], Any],
    *,
    source: Source,
    bad_records: BadRecords | None,
    refill: bool,
    num_threads: int,
) -> Callable[..., tf.data.Dataset]:
    """Makes the function that loads a window and skips its bad records, which it reports.

    Args:
      load: function of (position <int64>[], record <string>[]) to a nest of tensors; it raises a
        TensorFlow error for a bad record.
      source: the source of the records.
      bad_records: BadRecords that counts them. None prints the places of bad records on the host
        that reads them, and stops at a window without any valid record: other hosts cannot call
        Python.
      refill: if True, the window's valid records are repeated until there are as many as wanted, so
        that the number of bad ones does not change what follows.
      num_threads: records that are loaded at the same time.

    Returns:
      A function of the parts of a window, see `position.shuffled_windows`, to a tf.data.Dataset of
      what `load` returns.
    """

    @tf.autograph.experimental.do_not_convert
    def note(lost, *gap):
        for position, path, number, record in zip(*gap):
            reason = explain(record, source)
            path = path.numpy().decode("utf-8", "backslashreplace")
            bad_records.note(
                int(position),
                path,
                record_gaps.number_in_words(int(number), record.numpy()),
                reason,
            )
        if lost:
            bad_records.note_lost(int(position), refill)

    def read_window(positions, order, window):
        size = tf.size(order, out_type=tf.int64)
        loaded = _load_past_errors(load, positions, order, window[-1], num_threads)

        def is_valid(due, index, _):
            return tf.cond(
                (index == due) & (index < size), lambda: True, lambda: note_gap(due, index)
            )

        def note_gap(due, index):
            gap = [positions[due:index]]
            gap += [tf.gather(values, order[due:index]) for values in window]
            lost = (due == 0) & (index == size)
            if bad_records is None:
                noted = _printed(lost, *gap)
            else:
                # Python is called for bad records only; valid ones would wait for its lock.
                noted = tf.py_function(note, [lost, *gap], [])
            with tf.control_dependencies([noted]):
                return index < size

        valid = loaded.filter(is_valid).map(lambda due, index, item: item)
        return valid.repeat().take(size) if refill else valid

    return read_window


def _printed(lost, positions, paths, numbers, records):
    del positions
    gaps = tf.boolean_mask(records, record_gaps.are_gaps(records))
    valid = tf.debugging.Assert(
        ~lost, ["At least one record must be valid. Received: a window of", paths]
    )
    with tf.control_dependencies([valid]):
        return tf.print("Bad records skipped:", paths, numbers, gaps, summarize=-1)


def _load_past_errors(load, positions, order, records, num_threads):
    """Returns a dataset of (due <int64>[], index <int64>[], loaded record).

    In a graph an error cannot be caught, only ignored. It shows as a gap in the indices: the index
    is larger than the one due. A blank record with index W at the end shows a gap before it.
    """

    def load_one(index, place):
        return index, load(positions[index], records[place])

    loaded = tf.data.Dataset.from_tensor_slices(order).enumerate()
    loaded = loaded.map(load_one, num_parallel_calls=num_threads, deterministic=True)
    loaded = loaded.ignore_errors()
    blank = tf.nest.map_structure(_blank, loaded.element_spec[1])
    end = tf.data.Dataset.from_tensors((tf.size(order, out_type=tf.int64), blank))
    return loaded.concatenate(end).scan(
        tf.constant(0, tf.int64), lambda due, item: (item[0] + 1, (due, *item))
    )


def _blank(spec):
    return tf.zeros([length or 0 for length in spec.shape], spec.dtype)
