"""Times several ways of doing one thing in turns, and shows the results as a table and as JSON."""

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
      remarks: what was measured, in a sentence or two.
      columns: heads of the columns.
      rows: lists of text, one for each column.
      records: list of dicts ready for JSON, one for each row, with every number behind it.
    """

    title: str
    remarks: str
    columns: list
    rows: list
    records: list


def in_turns(steps, *, rounds, turn_seconds=0.2, after_round=lambda: None):
    """Times each step once a round, so that whatever slows the machine down meets all of them.

    Args:
      steps: dict of functions without arguments, by name. Each is called twice beforehand, to be
        traced, compiled and warmed up.
      rounds: turns of each step.
      turn_seconds: a turn repeats its step until this much time is over.
      after_round: called after each round.

    Returns:
      dict of <float64>[rounds] seconds a call, by name.
    """
    for step in steps.values():
        step(), step()
    seconds = {name: [] for name in steps}
    for number in range(rounds):
        # Every other round goes backwards, so that none always follows the same one.
        for name in list(steps)[:: -1 if number % 2 else 1]:
            seconds[name].append(_turn(steps[name], turn_seconds))
        after_round()
    return {name: np.array(values) for name, values in seconds.items()}


def _turn(step, turn_seconds):
    """Returns the seconds that one call takes, on average over a turn."""
    start, calls, passed = time.perf_counter(), 0, 0.0
    while calls == 0 or passed < turn_seconds:
        step()
        calls += 1
        passed = time.perf_counter() - start
    return passed / calls


def spread(values):
    """Returns the quartiles of <float64>[rounds] as a dict."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def environment():
    """Returns threads, machine and versions as a dict."""
    names = ("tensorflow", "keras", "numpy")
    cores = os.cpu_count()
    return {
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or cores,
        "cores": cores,
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in names},
        },
    }


def markdown(table, environment):
    """Returns a Table as Markdown, with its threads and versions."""
    versions = ", ".join(f"{name} {v}" for name, v in environment["versions"].items())
    lines = [table.columns, [":--", *["--:"] * (len(table.columns) - 1)], *table.rows]
    return "\n".join([
        f"## {table.title}",
        "",
        table.remarks,
        f"Threads: {environment['threads']} of {environment['cores']} cores; "
        f"{environment['machine']}; {versions}.",
        "",
        *(f"| {' | '.join(line)} |" for line in lines),
    ])
