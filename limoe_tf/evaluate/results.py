"""Nested results as flat names, as a table for people and as JSON for machines."""

import json
import os

import numpy as np
import tensorflow as tf


def flatten(results):
    """Returns {"a": {"b": 1}} as {"a/b": 1}, in the same order.

    Args:
      results: dict, possibly nested, with strings as keys.

    Returns:
      dict without dicts inside.

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


def markdown_table(results):
    """Returns the results as a Markdown table, padded so that it also reads well as plain text.

    Args:
      results: dict, possibly nested, of numbers and strings. Floats are rounded, only here.

    Returns:
      string of one line for each result, without a line break at the end.
    """
    cells = [("result", "value")]
    cells += [(name, _format(value)) for name, value in flatten(results).items()]
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in cells]
    left, right = (max(map(len, column)) for column in zip(*cells))
    lines = [f"| {name:<{left}} | {value:>{right}} |" for name, value in cells]
    lines.insert(1, f"|{'-' * (left + 2)}|{'-' * (right + 1)}:|")
    return "\n".join(lines)


def write_json(path, results):
    """Writes the results in full precision, as `write_text` does.

    Args:
      path: see `write_text`.
      results: dict, possibly nested, of numbers, strings, lists and arrays.

    Raises:
      TypeError: if a value is of a kind that JSON does not know.
      ValueError: if a number is infinite or not a number, which JSON does not know either.
    """
    # Before any file is touched: whatever raises, raises here.
    text = json.dumps(results, indent=2, allow_nan=False, default=to_plain) + "\n"
    write_text(path, text)


def write_scalars(folder, results, *, step):
    """Writes the numbers among the results for TensorBoard, under their flat names.

    Args:
      folder: where the events lie, on this machine or in a bucket (`gs://`).
      results: dict, possibly nested.
      step: of the model that was evaluated.
    """
    writer = tf.summary.create_file_writer(os.fspath(folder))
    with writer.as_default(step):
        for name, value in flatten(results).items():
            if isinstance(value, (int, float, np.number)):
                tf.summary.scalar(name, value)
    writer.close()


def write_text(path, text):
    """Writes a file; a reader finds the old one or the new, never a part.

    Args:
      path: a file on this machine or in a bucket (`gs://`); its folder is made if need be.
      text: string.
    """
    path = os.fspath(path)
    if os.path.dirname(path):
        tf.io.gfile.makedirs(os.path.dirname(path))
    partial = f"{path}.{os.getpid()}.partial"
    with tf.io.gfile.GFile(partial, "w") as file:
        file.write(text)
    tf.io.gfile.rename(partial, path, overwrite=True)


def _format(value):
    if isinstance(value, (float, np.floating)):
        small = 0 < abs(value) < 0.001
        return f"{value:.3g}" if small else f"{value:.4f}"
    return str(value)


def to_plain(value):
    """Returns a number or array of NumPy as JSON knows it; a TypeError for anything else."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"`results` must hold numbers, strings and lists. Received: {type(value)}")
