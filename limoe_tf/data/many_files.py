"""Many files: found by a pattern, and something done to each in threads, as buckets are slow."""

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

_THREADS = 16
_SECONDS_BETWEEN_LINES = 5


def matching(pattern: str) -> list[str]:
    """Returns the sorted paths that match a pattern.

    Raises:
      ValueError: if there are none.
    """
    reason = ""
    try:
        if paths := sorted(tf.io.gfile.glob(pattern)):
            return paths
    except tf.errors.OpError as error:  # A bucket that cannot be reached.
        reason = f" ({error.message})"
    except UnicodeDecodeError:
        reason = " (a file's name is not UTF-8)"
    rule = "`pattern` must match at least one file."
    raise ValueError(f"{rule} Received: pattern={pattern!r}{reason}")


def for_each(
    paths: Sequence[str], function: Callable[[str], Any], *, done: str, of: str
) -> dict[str, Any]:
    """Calls a function for each path; with a line every few seconds.

    Args:
      paths: list of paths.
      function: function of a path.
      done: what is done to them, in the line: "Indexed".
      of: what they belong to.

    Returns:
      dict from path to what the function returned.
    """
    start = shown = time.monotonic()
    found = {}
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for path, one in zip(paths, pool.map(function, paths)):
            found[path] = one
            if (now := time.monotonic()) - shown > _SECONDS_BETWEEN_LINES:
                shown = now
                rate = len(found) / (now - start)
                left = (len(paths) - len(found)) / rate
                print(
                    f"{done} {len(found):,} of {len(paths):,} files of {of}: "
                    f"{rate:.1f} files/s, {left // 60:.0f}:{left % 60:02.0f} left",
                    flush=True,
                )
    return found
