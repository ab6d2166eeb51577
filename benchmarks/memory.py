"""Memory use of steps, in a process of their own."""

import concurrent.futures
import multiprocessing
import pathlib
import re
import resource
import sys
from collections.abc import Callable

import psutil
import tensorflow as tf


def of_steps(make_step: Callable, *arguments, count: int = 3) -> dict[str, int]:
    """Returns the resident memory before the first of some steps, and its peak.

    Args:
      make_step: function of a module, called in a new process; returns the step, a function
        without arguments.
      *arguments: of `make_step`.
      count: number of steps.

    Returns:
      dict of bytes: `before` and `peak`.
    """
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    new = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=new) as process:
        return process.submit(_measured, make_step, arguments, count, threads).result()


def _measured(make_step, arguments, count, threads):
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    step = make_step(*arguments)
    before = psutil.Process().memory_info().rss
    for _ in range(count):
        step()
    return {"before": before, "peak": peak()}


def peak() -> int:
    """Returns the largest resident memory of this process so far, in bytes."""
    status = pathlib.Path("/proc/self/status")
    if status.exists():  # On Linux `getrusage` counts the process that started this one, too.
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text("ascii"))[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
