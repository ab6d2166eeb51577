"""Draws many examples in several processes; their order is that of one process.

The processes are programs of their own that write to a pipe. Those of `multiprocessing` would
import the script that reads the data set, which would then have to be written for that.
"""

import contextlib
import os
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from limoe_tf import checks
from limoe_tf.data.scenes import examples

# Examples drawn and sent at a time.
_BLOCK = 250
# A process is worth its start from this many examples on.
_LEAST_PER_PROCESS = 2_000
# An empty package stands for `limoe_tf`: the whole one would import TensorFlow, which takes longer
# than drawing thousands of scenes.
_PACKAGE = pathlib.Path(__file__).resolve().parents[2]
_PROGRAM = """
import sys, types
package = sys.modules["limoe_tf"] = types.ModuleType("limoe_tf")
package.__path__ = [sys.argv[1]]
from limoe_tf.data.scenes import workers
workers.write_part(sys.argv[2], *map(int, sys.argv[3:]), sys.stdout.buffer)
"""


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
    checks.positive_int("num_processes", num_processes)
    if num_processes == 1:
        yield from (examples.record(split, index) for index in range(count))
        return
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(_started(split, count, part, num_processes))
            for part in range(num_processes)
        ]
        for number, _ in enumerate(_blocks(count)):
            yield from _received(processes[number % num_processes])


def write_part(split: str, count: int, part: int, num_parts: int, file: BinaryIO) -> None:
    """Draws every `num_parts`-th block of examples, from block `part` on, and writes them.

    Args:
      split: name of the split.
      count: how many examples all parts have together.
      part: number of the first block.
      num_parts: how many processes share the work.
      file: where the blocks are written, each a pickled list.
    """
    for block in _blocks(count)[part::num_parts]:
        pickle.dump([examples.record(split, index) for index in block], file)
        file.flush()


def _blocks(count):
    return [range(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]


@contextlib.contextmanager
def _started(*arguments):
    """Starts a process, and ends it when it is no longer needed."""
    arguments = map(str, (_PACKAGE, *arguments))
    process = subprocess.Popen([sys.executable, "-c", _PROGRAM, *arguments], stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def _received(process):
    try:
        return pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError) as error:
        raise RuntimeError(
            f"A process that draws scenes ended early, with exit code {process.wait()}."
        ) from error
