"""Calls a function on all replicas of a strategy, each with its share of some rows."""

import numpy as np
import tensorflow as tf


def on_each(strategy, function, rows):
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
    answer = strategy.run(function, args=(values,))
    parts = [strategy.experimental_local_results(part) for part in tf.nest.flatten(answer)]
    return [tf.nest.pack_sequence_as(answer, list(of_replica)) for of_replica in zip(*parts)]


def over_all(strategy, function, rows):
    """Returns what `function` makes of the rows, row by row, whatever their number.

    Args:
      strategy: `tf.distribute.Strategy`.
      function: a `tf.function` of `rows` that returns a nest of [B, ...].
      rows: nest of [B, ...] arrays. Replicas get shares of one size: the last row fills them up.
    """
    count = strategy.num_replicas_in_sync
    if count == 1:
        return function(rows)
    size = len(tf.nest.flatten(rows)[0])
    filled = tf.nest.map_structure(lambda part: _filled(part, -size % count), rows)
    answers = on_each(strategy, function, filled)
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0)[:size], *answers)


def _split(part, count):
    if len(part) % count:
        raise ValueError(
            f"The number of examples must be divisible by the {count} replicas. "
            f"Received: {len(part)}"
        )
    return np.split(np.asarray(part), count)


def _filled(part, missing):
    part = np.asarray(part)
    return np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
