"""Nested results under flat names, as a Markdown table and as JSON."""

import json
import os
from typing import Any

import numpy as np
import tensorflow as tf

from limoe_tf import whole_file


def flatten(results: dict[str, Any]) -> dict[str, Any]:
    """Returns {"a": {"b": 1}} as {"a/b": 1}, in the same order.

    Args:
      results: dict, possibly nested, with strings as keys.

    Returns:
      dict without nested dicts.

    Raises:
      TypeError: if a key is not a string.
      ValueError: if two results get the same name.
    """
    flat = {}
    for key, value in results.items():
        if not isinstance(key, str):
            raise TypeError(f"`results` must have strings as keys. Received: key {key!r}")
        inner = flatten(value) if isinstance(value, dict) else {"": value}
        for name, leaf in inner.items():
            name = f"{key}/{name}" if name else key
            if name in flat:
                raise ValueError(f"`results` must name each result once. Received: {name!r} twice")
            flat[name] = leaf
    return flat


def markdown_table(results: dict[str, Any]) -> str:
    """Returns the results as a Markdown table, aligned so that it is readable as plain text.

    Args:
      results: dict, possibly nested, of numbers and strings. Only this table rounds floats.

    Returns:
      string of one line per result, without a trailing line break.
    """
    cells = [("result", "value")]
    cells += [(name, _format(value)) for name, value in flatten(results).items()]
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in cells]
    left, right = (max(map(len, column)) for column in zip(*cells))
    lines = [f"| {name:<{left}} | {value:>{right}} |" for name, value in cells]
    lines.insert(1, f"|{'-' * (left + 2)}|{'-' * (right + 1)}:|")
    return "\n".join(lines)


def write_json(path: str | os.PathLike, results: dict[str, Any]) -> None:
    """Writes the results in full precision, as `write_text` does.

    Args:
      path: see `write_text`.
      results: dict, possibly nested, of numbers, strings, lists and arrays.

    Raises:
      TypeError: if a value is not JSON-serializable.
      ValueError: if a number is infinite or NaN, which JSON does not allow.
    """
    # First, so that errors are raised before a file is written.
    text = json.dumps(results, indent=2, allow_nan=False, default=to_plain) + "\n"
    write_text(path, text)


def write_scalars(folder: str | os.PathLike, results: dict[str, Any], *, step: int) -> None:
    """Writes the numbers among the results for TensorBoard, under their flat names.

    Args:
      folder: folder of the events, local or in a bucket (`gs://`).
      results: dict, possibly nested.
      step: training step of the evaluated model.
    """
    writer = tf.summary.create_file_writer(os.fspath(folder))
    with writer.as_default(step):
        for name, value in flatten(results).items():
            if isinstance(value, (int, float, np.number)):
                tf.summary.scalar(name, value)
    writer.close()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a file atomically: a reader finds the old file or the new one, never a part.

    Args:
      path: a local file or one in a bucket (`gs://`); its folder is created if necessary.
      text: string.
    """
    whole_file.write(path, text.encode("utf-8"))


def _format(value):
    if isinstance(value, (float, np.floating)):
        small = 0 < abs(value) < 0.001
        return f"{value:.3g}" if small else f"{value:.4f}"
    return str(value)


def to_plain(value: Any) -> Any:
    """Returns a number or array of NumPy as JSON knows it; a TypeError for anything else."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"`results` must hold numbers, strings and lists. Received: {type(value)}")
