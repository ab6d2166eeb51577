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
        count = strategy.num_replicas_in_sync

        def flat(values):
            return [part for value in values for part in strategy.experimental_local_results(value)]

        def per_replica(parts):
            firsts = range(0, len(parts), count)
            return [distributed.PerReplica(tuple(parts[n : n + count])) for n in firsts]

        def on_all(number, *parts):
            arguments = (number, bodies, *per_replica(parts))
            return flat(strategy.extended.call_for_each_replica(in_scope, args=arguments))

        shared_stop = strategy.experimental_local_results(stops)[0]
        return per_replica(_loop(on_all, flat(values), start, shared_stop))

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
