"""Pictures of SVG icons, drawn by several processes in the order of their coming."""

import collections
import importlib.util
import itertools
import os
import pathlib
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import TypeVar

from limoe_tf import checks

SIZE = 64
# Drawn from an SVG without content: what every icon looks like of which nothing is visible.
_NOTHING = f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIZE}" height="{SIZE}"></svg>'
_WORKER = pathlib.Path(__file__).with_name("icon_worker.py")
_BLOCK = 64
EMPTY = "empty"

Item = TypeVar("Item")


def require_resvg() -> None:
    """Raises an ImportError that says what to install, if what draws icons is missing."""
    if importlib.util.find_spec("resvg_py") is None:
        raise ImportError(
            'Drawing icons needs resvg-py: pip install "limoe_tf[icons]". Received: no resvg_py'
        )


def svg_of(body: str, *, left: float, top: float, width: float, height: float) -> str:
    """Returns the SVG of an icon's body: its whole box, in the middle of `SIZE` by `SIZE` pixels.

    Args:
      body: elements of an SVG, as Iconify stores them.
      left: of the box.
      top: of the box.
      width: of the box.
      height: of the box.
    """
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIZE}" height="{SIZE}" viewBox="{left} {top} {width} {height}">{body}</svg>'
    )


def drawn(
    items: Iterable[Item], svg: Callable[[Item], str], *, num_processes: int | None = None
) -> Iterator[tuple[Item, bytes | str]]:
    """Yields each item with its picture, in order, whatever the number of processes.

    Args:
      items: what is to be drawn; few are held at a time.
      svg: returns the SVG text of an item.
      num_processes: that draw at the same time; None takes the number of cores.

    Yields:
      The item, and the bytes of a PNG <uint8>[64, 64, 4]; or instead of these `EMPTY`, if no pixel
      is visible, or the text of the error.

    Raises:
      ImportError: if resvg-py is not installed.
      ChildProcessError: if a process ends early.
    """
    require_resvg()
    num_processes = checks.positive_int("num_processes", num_processes or os.cpu_count())
    items = iter(items)
    with _Workers(num_processes) as workers:
        (nothing,) = workers.submit([_NOTHING]).result()
        waiting = collections.deque()
        while True:
            while len(waiting) <= 2 * num_processes:
                block = list(itertools.islice(items, _BLOCK))
                if not block:
                    break
                waiting.append((block, workers.submit([svg(item) for item in block])))
            if not waiting:
                return
            block, pictures = waiting.popleft()
            for item, picture in zip(block, pictures.result()):
                yield item, EMPTY if picture == nothing else picture


class _Workers:
    """Processes that each draw one block of SVGs at a time, given to whichever is free."""

    def __init__(self, count):
        command = [sys.executable, str(_WORKER)]
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
            process.stdin.close()
            process.stdout.close()
            process.wait()

    def submit(self, svgs):
        """Returns a future of the list of pictures."""
        return self._threads.submit(self._draw, svgs)

    def _draw(self, svgs):
        process = self._free.get()
        try:
            pickle.dump(svgs, process.stdin)
            process.stdin.flush()
            return pickle.load(process.stdout)
        except (EOFError, BrokenPipeError) as error:
            raise ChildProcessError(f"A process that draws icons ended: {svgs[0]!r}") from error
        finally:
            self._free.put(process)
