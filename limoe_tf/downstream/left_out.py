"""What is left out of published data because it is faulty: counted and named, and limited."""

import collections

from limoe_tf import checks

# The share is of at least so many entries, so that one fault in a small file does not stop reading.
_MIN_ENTRIES = 1000


class Fault(ValueError):
    """What is wrong with one entry.

    Args:
      reason: in some words, the same for all entries that have it.
      example: what shows it, such as a path; None for the place of the entry.
    """

    def __init__(self, reason: str, example: str | None = None):
        super().__init__(reason)
        self.reason = reason
        self.example = example


class LeftOut:
    """The entries that are left out, by reason.

    Args:
      name: of the data, for messages.
      max_share: largest share of the entries, or of 1000 if there are fewer, that may be left out.

    Attributes:
      counts: Counter of entries by reason.
    """

    def __init__(self, name: str, *, max_share: float):
        self.name = name
        self.counts = collections.Counter()
        self._max_share = checks.number_in("max_left_out", max_share, 0, 1)
        self._first = {}

    def note(self, reason: str, example: str) -> None:
        """Counts an entry that is left out; of each reason the first example is kept."""
        self._first.setdefault(reason, example)
        self.counts[reason] += 1

    def finish(self, num_kept: int) -> None:
        """Prints a line for each reason.

        Args:
          num_kept: entries that are not left out.

        Raises:
          ValueError: if there are none, or too many are left out.
        """
        listed = [
            f"{count:,} x {reason} (first: {self._first[reason]!r})"
            for reason, count in self.counts.most_common()
        ]
        for line in listed:
            print(f"Left out of {self.name}: {line}", flush=True)
        number = self.counts.total()
        received = f"Received: {self.name}, {number:,} of {num_kept + number:,} left out"
        received = "; ".join([received, *listed])
        if not num_kept:
            raise ValueError(f"At least one entry must be sound. {received}")
        if number > self._max_share * max(num_kept + number, _MIN_ENTRIES):
            raise ValueError(
                f"At most a share of {self._max_share:g} of the entries may be left out. {received}"
            )
