"""One of two things done by all replicas alike."""

import tensorflow as tf


def either(condition, function, otherwise, arguments):
    """Calls `function` on every replica if the condition holds, else `otherwise`; both for effect.

    Unlike within `tf.cond` alone, what is called may exchange values between replicas.

    Args:
      condition: <bool>[], the same on all replicas.
      function: called with `arguments`, in a thread of its own where replicas are threads.
      otherwise: likewise.
      arguments: list of tensors.
    """
    context = tf.distribute.get_replica_context()
    if not context.strategy.extended._use_merge_call():
        return _one_of(condition, lambda: function(*arguments), lambda: otherwise(*arguments))

    # Replicas that are threads must not meet within a branch that each of them traces for itself.
    def across(strategy, conditions, arguments):
        def on_each(called):
            return lambda: strategy.extended.call_for_each_replica(called, args=arguments)

        shared = strategy.experimental_local_results(conditions)[0]
        _one_of(shared, on_each(function), on_each(otherwise))

    context.merge_call(across, args=(condition, arguments))


def _one_of(condition, function, otherwise):
    def nothing_of(called):
        def branch():
            called()
            return tf.constant(0)

        return branch

    tf.cond(condition, nothing_of(function), nothing_of(otherwise))
