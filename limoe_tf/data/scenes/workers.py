"""Draws many examples in several processes; their order is that of one process."""

import os
from collections.abc import Iterator
from typing import Any

from limoe_tf.data import processes
from limoe_tf.data.scenes import examples

# Examples drawn and sent at a time.
_BLOCK = 250
# A process is worth its start from this many examples on.
_LEAST_PER_PROCESS = 2_000


def records(split: str, count: int, *, num_processes: int | None = None) -> Iterator[Any]:
    """Yields the first examples of a split in order, as `examples.record` returns them.

    Args:
      split: name of the split.
      count: how many.
      num_processes: processes that draw; 1 draws in this one. None takes the number of cores, and
        fewer for a small count.

    Raises:
      RuntimeError: if a process ends early.
    """
    if num_processes is None:
        num_processes = max(1, min(os.cpu_count() or 1, count // _LEAST_PER_PROCESS))
    blocks = [
        (split, range(start, min(start + _BLOCK, count))) for start in range(0, count, _BLOCK)
    ]
    if num_processes == 1:
        drawn = map(draw, blocks)
    else:
        drawn = processes.answers(draw, blocks, num_processes=num_processes)
    for block in drawn:
        yield from block


def draw(block: tuple[str, range]) -> list[dict[str, Any]]:
    """Returns the examples of a split that have some numbers, as `examples.record` does."""
    split, numbers = block
    return [examples.record(split, number) for number in numbers]
