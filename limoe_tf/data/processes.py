"""A function in several processes, without what `limoe_tf` imports; answers come in order.

The processes are programs of their own that read from a pipe and write to one. Those of
`multiprocessing` would import the script that builds a dataset, which would then have to be written
for that.
"""

import collections
import itertools
import pathlib
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any

from limoe_tf import checks

# An empty package stands for `limoe_tf`: the whole one would import TensorFlow, which takes longer
# than drawing thousands of pictures.
_PACKAGE = pathlib.Path(__file__).resolve().parents[1]
_PROGRAM = """
import importlib, pickle, sys, types
package = sys.modules["limoe_tf"] = types.ModuleType("limoe_tf")
package.__path__ = [sys.argv[1]]
function = getattr(importlib.import_module(sys.argv[2]), sys.argv[3])
while True:
    try:
        request = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    pickle.dump(function(request), sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


def answers(
    function: Callable[[Any], Any], requests: Iterable[Any], *, num_processes: int
) -> Iterator[Any]:
    """Yields what a function returns for each request, in their order.

    Args:
      function: that of a module of this package which imports no TensorFlow, of one argument; that
        and what it returns are pickled.
      requests: the arguments; few are taken ahead.
      num_processes: that work at the same time.

    Raises:
      RuntimeError: if a process ends early.
    """
    checks.positive_int("num_processes", num_processes)
    requests, waiting = iter(requests), collections.deque()
    with _Workers(function, num_processes) as workers:
        while True:
            ahead = 2 * num_processes + 1 - len(waiting)
            waiting.extend(map(workers.submit, itertools.islice(requests, ahead)))
            if not waiting:
                return
            yield waiting.popleft().result()


class _Workers:
    """Processes that each answer one request at a time; whichever is free takes the next."""

    def __init__(self, function, count):
        arguments = str(_PACKAGE), function.__module__, function.__name__
        command = [sys.executable, "-c", _PROGRAM, *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._processes = [subprocess.Popen(command, **pipes) for _ in range(count)]
        self._free = queue.SimpleQueue()
        for process in self._processes:
            self._free.put(process)
        self._threads = futures.ThreadPoolExecutor(count)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.kill()  # All that was asked for is there.
            process.communicate()

    def submit(self, request):
        """Returns a future of the answer."""
        return self._threads.submit(self._answer, request)

    def _answer(self, request):
        process = self._free.get()
        try:
            pickle.dump(request, process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            code, asked = process.wait(), repr(request)[:200]
            raise RuntimeError(
                f"A process ended early, with exit code {code}, when it was given {asked}"
            ) from error
        finally:
            self._free.put(process)
