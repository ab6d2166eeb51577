"""The arithmetic of `optimizer.Adafactor` on one variable, compiled where that pays."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from limoe_tf.xla import in_xla

# A dozen passes over memory become two or three. That pays for the compilation of each shape where
# a variable is large.
_LARGE = 2**20


class Scaled(NamedTuple):
    """A gradient <float>[...] and a factor <float32>[] by which it is still to be multiplied."""

    gradient: tf.Tensor
    factor: tf.Tensor


def update(
    gradient: tf.Tensor | Scaled,
    value: tf.Variable | tf.Tensor,
    slots: Sequence,
    *,
    beta_2: tf.Tensor,
    learning_rate: tf.Tensor,
    decay: tf.Tensor | float,
    axes: tuple[int, int] | None,
    beta_1: float,
    epsilon: float,
) -> list[tf.Tensor]:
    """Returns the new values of a variable and of its slots.

    Args:
      gradient: <float>[...], or `Scaled`.
      value: the variable, <float>[...].
      slots: its momentum <float>[...], then its second moment <float32>[...], or the row and column
        means of that.
      beta_2: decay rate of the second moments, <float32>[].
      learning_rate: <float32>[].
      decay: weight decay, as a share of the value, <float32>[].
      axes: two axes over which the second moment is factored, or None.
      beta_1: decay rate of the momentum.
      epsilon: added to the squared gradient.

    Returns:
      list of tensors like `value` and `slots`.
    """
    gradient, factor = gradient if isinstance(gradient, Scaled) else (gradient, 1.0)
    compiles = not in_xla() and value.shape.num_elements() >= _LARGE
    return (_compiled if compiles else _update)(
        *map(tf.convert_to_tensor, (gradient, value, *slots)),
        *(tf.cast(number, tf.float32) for number in (factor, beta_2, learning_rate, decay)),
        axes=axes,
        beta_1=beta_1,
        epsilon=epsilon,
    )


def _update(
    gradient, value, momentum, *moments_and_numbers, axes, beta_1, epsilon, mean=tf.reduce_mean
):
    *moments, factor, beta_2, learning_rate, decay = moments_and_numbers
    gradient = factor * tf.cast(gradient, tf.float32)
    square = tf.square(gradient) + epsilon
    if axes is None:
        moments = [beta_2 * moments[0] + (1.0 - beta_2) * square]
        scaled = gradient * tf.math.rsqrt(moments[0])
    else:
        second, largest = axes
        moments = [
            beta_2 * moment + (1.0 - beta_2) * mean(square, axis)
            for moment, axis in zip(moments, (largest, second))
        ]
        rows, columns = moments
        # Rows lack the axis `largest`, so axes after it are one lower.
        axis = second - 1 if second > largest else second
        rows = rows / tf.reduce_mean(rows, axis, keepdims=True)
        # Two roots, not the root of a product: the product of two tiny moments underflows.
        scaled = gradient * tf.expand_dims(tf.math.rsqrt(rows), largest)
        scaled *= tf.expand_dims(tf.math.rsqrt(columns), second)
    smoothed = beta_1 * tf.cast(momentum, tf.float32) + (1 - beta_1) * scaled
    # The update uses the momentum before it is rounded.
    change = learning_rate * smoothed + decay * tf.cast(value, tf.float32)
    return [value - tf.cast(change, value.dtype), tf.cast(smoothed, momentum.dtype), *moments]


def _mean_in_blocks(values, axis):
    """As `tf.reduce_mean`, in two steps.

    On CPUs, XLA sums one value at a time; for blocks of these lengths it vectorizes, in half the
    time.
    """
    last = axis == len(values.shape) - 1
    block = math.gcd(values.shape[axis], 128 if last else 4)
    blocks = [*values.shape[:axis], -1, block, *values.shape[axis + 1 :]]
    means = tf.reduce_mean(tf.reshape(values, blocks), axis if last else axis + 1)
    return tf.reduce_mean(means, axis)


_compiled = tf.function(
    functools.partial(_update, mean=_mean_in_blocks), jit_compile=True, autograph=False
)
