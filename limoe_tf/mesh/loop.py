"""A loop whose body may run collectives."""

from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow.python.distribute import values as distributed

from limoe_tf.mesh import replicas


def repeat(
    body: Callable, values: Sequence[tf.Tensor], *, start: int, stop: int | tf.Tensor
) -> list[tf.Tensor]:
    """Returns `values` after `values = body(number, *values)` for each number of start..stop.

    Unlike in `tf.while_loop`, the body may exchange values between replicas. The loop itself has no
    gradient.

    Args:
      body: function of an <int32>[] and tensors; returns a list of tensors of the same shapes. It
        runs in a thread of its own where replicas are threads.
      values: list of tensors.
      start: first number.
      stop: int or <int32>[], the number after the last; the same on all replicas that exchange.
    """
    context, mesh = tf.distribute.get_replica_context(), replicas.current().mesh
    if mesh is None or replicas.current().replica.in_one_program:
        return _loop(body, values, start, stop)

    def in_scope(number, body, *values):
        with replicas.scope(replicas.of_strategy(mesh)):
            return body(number, *values)

    # Replicas that are threads cannot run collectives in a loop that each traces for itself.
    def across(strategy, bodies, stops, *values):
        parts = [strategy.experimental_local_results(value) for value in values]
        count = strategy.num_replicas_in_sync

        def on_all(number, *flat):
            of_replicas = [
                distributed.PerReplica(flat[first : first + count])
                for first in range(0, len(flat), count)
            ]
            found = strategy.extended.call_for_each_replica(
                in_scope, args=(number, bodies, *of_replicas)
            )
            return [part for value in found for part in strategy.experimental_local_results(value)]

        flat = [part for of_value in parts for part in of_value]
        shared_stop = strategy.experimental_local_results(stops)[0]
        flat = _loop(on_all, flat, start, shared_stop)
        return [
            distributed.PerReplica(tuple(flat[first : first + count]))
            for first in range(0, len(flat), count)
        ]

    return list(context.merge_call(across, args=(body, stop, *values)))


def _loop(body, values, start, stop):
    def step(number, *values):
        return [number + 1, *body(number, *values)]

    # With iterations in parallel, rounds of collectives could pass each other.
    return tf.while_loop(
        lambda number, *_: number < stop,
        step,
        [tf.constant(start), *values],
        parallel_iterations=1,
    )[1:]
