"""Interleaved timing of several ways to do the same, and tables of the results."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Table(NamedTuple):
    """One table of results.

    Attributes:
      title: its heading.
      remarks: what was measured, and how.
      columns: heads of the columns.
      rows: lists of text, one entry per column.
      records: list of dicts for JSON, one per row, with its numbers.
    """

    title: str
    remarks: str
    columns: list[str]
    rows: list[list[str]]
    records: list[dict[str, Any]]


class Times(NamedTuple):
    """Seconds per call of a step, in each round.

    Attributes:
      wall: <float64>[rounds] wall-clock time, with other work of the machine.
      processor: <float64>[rounds] of this process, summed over its threads.
    """

    wall: np.ndarray
    processor: np.ndarray


def repeat(step: Callable, turn_seconds: float) -> tuple[float, float]:
    """Returns the mean wall-clock and processor seconds of a call, over one turn.

    Args:
      step: function without arguments.
      turn_seconds: `step` is called until this much time has passed.
    """
    start, processor_start, calls, passed = time.perf_counter(), time.process_time(), 0, 0.0
    while calls == 0 or passed < turn_seconds:
        step()
        calls += 1
        passed = time.perf_counter() - start
    return passed / calls, (time.process_time() - processor_start) / calls


def interleaved(
    steps: Mapping[Any, Callable],
    *,
    rounds: int,
    turn_seconds: float = 0.2,
    turn: Callable = repeat,
    after_round: Callable = lambda: None,
) -> dict[Any, Times]:
    """Times each step once per round, so that other work of the machine slows all of them.

    Args:
      steps: dict of functions without arguments, by name. Each is called twice beforehand, to be
        traced, compiled and warmed up.
      rounds: turns of each step.
      turn_seconds: a turn repeats its step until this much time has passed.
      turn: function of a step and `turn_seconds` that runs a turn and returns its two times.
      after_round: called after each round.

    Returns:
      dict of Times by name.
    """
    for step in steps.values():
        step()
        step()
    turns = {name: [] for name in steps}
    for number in range(rounds):
        # Every other round is in reverse order, so that no step always follows the same one.
        for name in list(steps)[:: -1 if number % 2 else 1]:
            turns[name].append(turn(steps[name], turn_seconds))
        after_round()
    return {name: Times(*np.transpose(values)) for name, values in turns.items()}


def spread(values: np.ndarray) -> dict[str, float]:
    """Returns median and quartiles of <float64>[rounds] as a dict."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def shown(values: Mapping[str, float]) -> str:
    """Returns a `spread` as text: median (quartiles)."""
    return "{median:.2f} ({low:.2f}-{high:.2f})".format(**values)


def compared(own: Times, other: Times) -> dict[str, dict[str, float]]:
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


def environment() -> dict[str, Any]:
    """Returns threads, machine and versions as a dict."""
    cores = os.cpu_count()
    versions = {name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")}
    return {
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or cores,
        "cores": cores,
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version(), **versions},
    }


def markdown(table: Table, environment: Mapping[str, Any]) -> str:
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


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns lists of text as a table in Markdown."""
    lines = [columns, [":--", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
