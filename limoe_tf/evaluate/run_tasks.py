"""Several tasks of one model: looked through before training, and run so that each fails alone."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from limoe_tf.evaluate.results import flatten, to_plain

# What the results of a run say beside those of its tasks.
RESERVED = ("failed", "parameters", "seconds", "seconds_of_training", "step", "to_repeat")


class TasksFailed(ValueError):
    """Some tasks have no results; the others' are not lost.

    Args:
      failed: dict by name of the task of the reason.
    """

    def __init__(self, failed: Mapping[str, str]):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        super().__init__(f"These tasks failed, and have no results: {reasons}")


def checked(tasks: Mapping[str, Callable]) -> dict[str, Callable]:
    """Returns the tasks as a dict, if they can be called.

    Args:
      tasks: dict by name of functions.

    Raises:
      TypeError: if a task is no function, or a class instead of an object of it.
      ValueError: if a name is one that results have for something else.
    """
    for name, task in dict(tasks).items():
        if isinstance(task, type) or not callable(task):
            raise TypeError(
                "`tasks` must be functions, in gin files such as @tasks.Retrieval(). "
                f"Received: {name}={task!r}"
            )
        if not isinstance(name, str) or name in RESERVED:
            raise ValueError(
                f"`tasks` must have names other than {', '.join(RESERVED)}. Received: {name!r}"
            )
        if below := [other for other in tasks if f"{other}".startswith(f"{name}/")]:
            raise ValueError(
                f"`tasks` must have names that stand beside each other. Received: {name!r} and "
                f"{below[0]!r}"
            )
    return dict(tasks)


def check_data(tasks: Mapping[str, Callable], model: Any) -> None:
    """Reads a little of each task's data, so that a mistake is found before training.

    Args:
      tasks: dict by name of tasks; one that has no method `check(model)` is passed over.
      model: the model that will be evaluated.

    Raises:
      ValueError: what a task's `check` says, with the task's name.
    """
    for name, task in tasks.items():
        if check := getattr(task, "check", None):
            try:
                check(model)
            except (OSError, TypeError, ValueError, tf.errors.OpError) as error:
                raise ValueError(f"{error} (task {name!r})") from error


def each(tasks: Mapping[str, Callable], *arguments: Any) -> Iterator[tuple[str, Any, str | None]]:
    """Calls one task after the other; what one raises does not keep the next from being called.

    Args:
      tasks: dict by name of functions of the arguments to a dict, possibly nested, of numbers.
      *arguments: of each task.

    Yields:
      The name, what the task has returned, and None; or the name, None, and the reason for which it
      has failed. So does a task that returns numbers which are not finite, or what has no place in
      results.
    """
    for name, task in tasks.items():
        try:
            yield name, _sound({name: task(*arguments)})[name], None
        except Exception as error:
            logging.debug("This is where task %r failed.", name, exc_info=True)
            yield name, None, " ".join(f"{error}".split()) or type(error).__name__


def run(tasks: Mapping[str, Callable], *arguments: Any) -> dict[str, Any]:
    """Returns what the tasks return, by name, and by name under "failed" why others did not.

    Args:
      tasks, *arguments: see `each`.
    """
    found, failed = {}, {}
    for name, result, reason in each(tasks, *arguments):
        (found if reason is None else failed)[name] = result if reason is None else reason
    return {**found, "failed": failed} if failed else found


def raise_failed(found: Mapping[str, Any]) -> None:
    """Raises TasksFailed if some results, as of `run`, name tasks that have failed."""
    if "failed" in found:
        raise TasksFailed(found["failed"])


def _sound(results):
    """Returns the results if they can be written as JSON and as a table."""
    for name, value in flatten(results).items():
        numbers = np.asarray(value)
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise ValueError(f"Results must be finite numbers. Received: {name}={value}")
    json.dumps(results, allow_nan=False, default=to_plain)
    return results
