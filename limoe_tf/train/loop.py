"""Several steps of training in one call, on any number of replicas."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from limoe_tf import packing


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

    @tf.function(reduce_retracing=True, autograph=False)
    def run(iterator):
        like = {}  # The step's logs: it is traced once, within the loop.

        def next_step(number, ended, packed):
            following = iterator.get_next_as_optional()

            def packed_logs():
                like.update(one_step(following.get_value()))
                return packing.packed(like)

            ended = tf.logical_not(following.has_value())
            return number + 1, ended, tf.cond(ended, lambda: packed, packed_logs)

        _, _, packed = tf.while_loop(
            lambda number, ended, _: (number < model.steps_per_execution) & ~ended,
            next_step,
            (0, False, tf.zeros([0])),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([]), tf.TensorShape([None])),
        )

        def without_batch():
            iterator.get_next()  # Raises OutOfRangeError, as Keras expects.
            return packed

        packed = tf.cond(tf.size(packed) == 0, without_batch, lambda: packed)
        return packing.unpacked(packed, like)

    return run
