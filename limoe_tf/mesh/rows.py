"""Calls a function on all replicas of a strategy, each with its share of some rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def on_each(strategy: tf.distribute.Strategy, function: Callable, rows: Any) -> list:
    """Calls a function on every replica with its share of the rows.

    Args:
      strategy: `tf.distribute.Strategy`.
      function: a `tf.function` of one argument.
      rows: nest of [B, ...] arrays; the number of replicas divides B.

    Returns:
      list of what `function` returned on each replica.
    """
    count = strategy.num_replicas_in_sync
    if count == 1:
        return [function(rows)]
    shares = [_split(part, count) for part in tf.nest.flatten(rows)]

    def share(context):
        place = context.replica_id_in_sync_group
        return tf.nest.pack_sequence_as(rows, [tf.constant(parts[place]) for parts in shares])

    values = strategy.experimental_distribute_values_from_function(share)
    outputs = strategy.run(function, args=(values,))
    parts = [strategy.experimental_local_results(part) for part in tf.nest.flatten(outputs)]
    return [tf.nest.pack_sequence_as(outputs, list(of_replica)) for of_replica in zip(*parts)]


def over_all(strategy: tf.distribute.Strategy, function: Callable, rows: Any) -> Any:
    """Returns `function` of the rows, computed on all replicas, for any number of rows.

    Args:
      strategy: `tf.distribute.Strategy`.
      function: a `tf.function` of `rows` that returns a nest of [B, ...].
      rows: nest of [B, ...] arrays. The last row is repeated until all replicas have as many.
    """
    count = strategy.num_replicas_in_sync
    if count == 1:
        return function(rows)
    size = len(tf.nest.flatten(rows)[0])
    padded = tf.nest.map_structure(lambda part: _padded(part, -size % count), rows)
    outputs = on_each(strategy, function, padded)
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0)[:size], *outputs)


def _split(part, count):
    if len(part) % count:
        raise ValueError(
            f"The number of examples must be divisible by the {count} replicas. "
            f"Received: {len(part)}"
        )
    return np.split(np.asarray(part), count)


def _padded(part, missing):
    part = np.asarray(part)
    return np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
