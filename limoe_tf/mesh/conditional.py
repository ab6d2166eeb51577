"""A conditional whose branches may run collectives."""

from collections.abc import Callable, Sequence

import tensorflow as tf


def cond(
    predicate: tf.Tensor, true_fn: Callable, false_fn: Callable, arguments: Sequence[tf.Tensor]
) -> None:
    """Calls `true_fn` on every replica if the predicate holds, else `false_fn`, for side effects.

    Unlike in `tf.cond`, the branches may exchange values between replicas.

    Args:
      predicate: <bool>[], the same on all replicas.
      true_fn: called with `arguments`, in a thread of its own where replicas are threads.
      false_fn: likewise.
      arguments: list of tensors.
    """
    context = tf.distribute.get_replica_context()
    if not context.strategy.extended._use_merge_call():
        return _cond(predicate, lambda: true_fn(*arguments), lambda: false_fn(*arguments))

    # Replicas that are threads cannot run collectives in a branch that each traces for itself.
    def across(strategy, predicates, arguments):
        def on_each(function):
            return lambda: strategy.extended.call_for_each_replica(function, args=arguments)

        shared = strategy.experimental_local_results(predicates)[0]
        _cond(shared, on_each(true_fn), on_each(false_fn))

    context.merge_call(across, args=(predicate, arguments))


def _cond(predicate, true_fn, false_fn):
    def without_result(function):
        def branch():
            function()
            return tf.constant(0)

        return branch

    tf.cond(predicate, without_result(true_fn), without_result(false_fn))
