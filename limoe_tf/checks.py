"""Checks of arguments: each returns the value, or raises with the rule and what was received."""

import os
from collections.abc import Iterable
from typing import Any


def integer_in(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Returns `value` if it is an integer with `low <= value <= high` (no upper bound if None)."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"`{name}` must be an integer. Received: {name}={value!r}")
    value = value.__index__()
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"`{name}` must be {bounds}. Received: {name}={value}")
    return value


def positive_int(name: str, value: Any) -> int:
    """Returns `value` if it is an integer of at least 1."""
    return integer_in(name, value, 1)


def number_in(name: str, value: Any, low: float, high: float | None = None) -> float:
    """Returns `value` if it is a real number with `low <= value <= high` (no bound if None)."""
    if isinstance(value, bool) or not hasattr(value, "__float__") or isinstance(value, str):
        raise TypeError(f"`{name}` must be a number. Received: {name}={value!r}")
    if not value >= low or (high is not None and not value <= high):
        bounds = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"`{name}` must be {bounds}. Received: {name}={value}")
    return value


def one_of(name: str, value: Any, allowed: Iterable) -> Any:
    """Returns `value` if it is one of `allowed`."""
    if value not in allowed:
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value!r}")
    return value


def existing_file(name: str, path: str | os.PathLike) -> str:
    """Returns `path` if there is a file, on this machine or in a bucket (`gs://`)."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"`{name}` must be a path. Received: {name}={path!r}")
    # TensorFlow is imported here because only this check needs it.
    import tensorflow as tf

    path = os.fspath(path)
    try:
        if tf.io.gfile.exists(path) and not tf.io.gfile.isdir(path):
            return path
        reason = ""
    except tf.errors.OpError as error:  # A bucket that cannot be reached.
        reason = f" ({error.message})"
    raise ValueError(f"`{name}` must be an existing file. Received: {name}={path!r}{reason}")


def plain_path(name: str, path: str | os.PathLike) -> str:
    """Returns `path` as a string if TensorFlow takes it for itself, not for a pattern of paths."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"`{name}` must be a path. Received: {name}={path!r}")
    path = os.fspath(path)
    if found := sorted(set("*?[\\") & set(path)):
        raise ValueError(
            f"`{name}` must be a path without *, ?, [ and \\, which TensorFlow takes for patterns. "
            f"Received: {name}={path!r}, with {' '.join(found)}"
        )
    return path
