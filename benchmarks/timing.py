"""Times several ways of doing one thing in turns, and shows the results as a table."""

import os
import platform
import time
from importlib import metadata
from typing import NamedTuple

import numpy as np
import tensorflow as tf


class Table(NamedTuple):
    """One table of results.

    Attributes:
      title: its heading.
      remarks: what was measured, and how.
      columns: heads of the columns.
      rows: lists of text, one entry a column.
      records: list of dicts ready for JSON, one a row, with the numbers behind it.
    """

    title: str
    remarks: str
    columns: list
    rows: list
    records: list


class Times(NamedTuple):
    """Seconds that one call of a step takes, turn by turn.

    Attributes:
      wall: <float64>[rounds] by the clock; what else the machine does counts too.
      processor: <float64>[rounds] of this process, summed over its threads.
    """

    wall: np.ndarray
    processor: np.ndarray


def repeat(step, turn_seconds):
    """Returns the seconds of a call by the clock and of the processor, on average over a turn.

    Args:
      step: function without arguments.
      turn_seconds: `step` is called until this much time is over.
    """
    start, processor_start, calls, passed = time.perf_counter(), time.process_time(), 0, 0.0
    while calls == 0 or passed < turn_seconds:
        step()
        calls += 1
        passed = time.perf_counter() - start
    return passed / calls, (time.process_time() - processor_start) / calls


def in_turns(steps, *, rounds, turn_seconds=0.2, turn=repeat, after_round=lambda: None):
    """Times each step once a round, so that whatever slows the machine down meets all of them.

    Args:
      steps: dict of functions without arguments, by name. Each is called twice beforehand, to be
        traced, compiled and warmed up.
      rounds: turns of each step.
      turn_seconds: a turn repeats its step until this much time is over.
      turn: function of a step and `turn_seconds` that takes a turn and returns its two times.
      after_round: called after each round.

    Returns:
      dict of Times by name.
    """
    for step in steps.values():
        step()
        step()
    turns = {name: [] for name in steps}
    for number in range(rounds):
        # Every other round goes backwards, so that no step always follows the same one.
        for name in list(steps)[:: -1 if number % 2 else 1]:
            turns[name].append(turn(steps[name], turn_seconds))
        after_round()
    return {name: Times(*np.transpose(values)) for name, values in turns.items()}


def spread(values):
    """Returns median and quartiles of <float64>[rounds] as a dict."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def shown(values):
    """Returns a `spread` as text: median (quartiles)."""
    return "{median:.2f} ({low:.2f}-{high:.2f})".format(**values)


def compared(own, other):
    """Returns milliseconds of `own`, and ratios to `other` within rounds, as a dict of spreads.

    Args:
      own: Times.
      other: Times of the same rounds.
    """
    return {
        "milliseconds": spread(1000 * own.wall),
        "processor_milliseconds": spread(1000 * own.processor),
        "ratio": spread(own.wall / other.wall),
        "processor_ratio": spread(own.processor / other.processor),
    }


def environment():
    """Returns threads, machine and versions as a dict."""
    cores = os.cpu_count()
    versions = {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    return {
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or cores,
        "cores": cores,
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **versions},
    }


def markdown(table, environment):
    """Returns a Table as Markdown, with the threads and versions of `environment`."""
    versions = ", ".join(f"{name} {v}" for name, v in environment["versions"].items())
    return "\n".join(
        [
            f"## {table.title}",
            "",
            table.remarks,
            f"Threads: {environment['threads']}, on {environment['cores']} cores of "
            f"{environment['machine']}; {versions}.",
            "",
            grid(table.columns, table.rows),
        ]
    )


def grid(columns, rows):
    """Returns lists of text as a table in Markdown."""
    lines = [columns, [":--", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
