"""Several steps of training in one call, on any number of replicas."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def several_steps(
    model: keras.Model, step_function: Callable[..., dict[str, tf.Tensor]], by_keras: Callable
) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Returns a function of an iterator that runs `steps_per_execution` steps, or what is left.

    Args:
      model: compiled Keras model.
      step_function: function of a batch; its logs are the same on every replica.
      by_keras: the function that Keras makes of it, which raises for several steps on replicas.
    """
    if model.steps_per_execution == 1 or model.run_eagerly:
        return by_keras
    loop = _loop(model, step_function)
    # `train_on_batch` has a generator.
    return lambda batches: (loop if hasattr(batches, "get_next_as_optional") else by_keras)(batches)


def _loop(model, step_function):
    strategy = model.distribute_strategy
    if model.jit_compile:
        step_function = tf.function(step_function, jit_compile=True, autograph=False)

    # No tf.function unless XLA needs one: called within `tf.cond` in a loop it loses arguments.
    def one_step(batch):
        logs = strategy.run(step_function, args=(batch,))
        # Every replica has the same logs.
        return {name: strategy.experimental_local_results(v)[0] for name, v in logs.items()}

    def next_step(number, ended, logs, iterator):
        following = iterator.get_next_as_optional()
        ended = tf.logical_not(following.has_value())
        logs = tf.cond(ended, lambda: logs, lambda: one_step(following.get_value()))
        return number + 1, ended, logs

    @tf.function(reduce_retracing=True, autograph=False)
    def run(iterator):
        _, _, logs = tf.while_loop(
            lambda number, ended, _: (number < model.steps_per_execution) & ~ended,
            functools.partial(next_step, iterator=iterator),
            (1, False, one_step(iterator.get_next())),
        )
        return logs

    return run
