"""A function of examples, computed for some of them after another, and anew in the backward pass.

What it makes on the way to its result then is that of a few examples at a time, which XLA keeps in
the memory on the chip where the whole would not fit there.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from limoe_tf.custom_gradient import custom_gradient
from limoe_tf.mesh.shape import divisors


def largest_divisor(size: int, limit: int) -> int:
    """Returns the largest divisor of `size` that is not above `limit`; both are 1 or more."""
    return max(number for number in divisors(size) if number <= limit)


def over_chunks(
    function: Callable[..., tf.Tensor], tensors: Sequence[tf.Tensor], *, count: int
) -> tf.Tensor:
    """Returns `function(*tensors)` by a loop over chunks of the first axis; for XLA only.

    Only `tensors` are kept for the gradient, which is a loop of its own that computes each chunk
    again. Nothing but rounding differs from one call of the function.

    Args:
      function: of as many tensors; each example of its result depends on that example alone. The
        result has the shape and the dtype of the first tensor.
      tensors: <any>[B, ...]; B is known. Gradients flow to those of floating point.
      count: of chunks; divides B.

    Reference: https://arxiv.org/abs/1604.06174 (what is computed again).
    """
    size = tensors[0].shape[0] // count
    differentiable = [tensor.dtype.is_floating for tensor in tensors]

    def parts(start, values):
        return [
            tf.slice(value, [start, *[0] * (value.shape.rank - 1)], [size, *value.shape[1:]])
            for value in values
        ]

    def forward(*values):
        def step(start, results):
            return [_updated(results[0], function(*parts(start, values)), start)]

        return _loop(step, [tf.zeros_like(values[0])], count, size)[0]

    def backward(upstream, *values):
        floating = [value for value, floats in zip(values, differentiable) if floats]

        def step(start, carried):
            # A chunk of gradients takes the place of the values that it was computed from.
            left = iter(parts(start, carried))
            chunk = [
                next(left) if floats else parts(start, [value])[0]
                for value, floats in zip(values, differentiable)
            ]
            watched = [part for part, floats in zip(chunk, differentiable) if floats]
            with tf.GradientTape() as tape:
                tape.watch(watched)
                result = function(*chunk)
            gradients = tape.gradient(result, watched, output_gradients=parts(start, [upstream])[0])
            return [_updated(*pair, start) for pair in zip(carried, gradients)]

        gradients = iter(_loop(step, floating, count, size))
        return [next(gradients) if floats else None for floats in differentiable]

    @custom_gradient
    def run(*values):
        def gradient(upstream):
            with tf.name_scope(scope):  # Or a profile would not say whose loop it is.
                return backward(upstream, *values)

        return forward(*values), gradient

    with tf.name_scope("chunks") as scope:
        return run(*tensors)


def _loop(step, start, count, size):
    """Returns the tensors that `step` has made of others for each chunk, given its first index."""

    def body(index, *tensors):
        return index + 1, *step(index * size, tensors)

    return tf.while_loop(lambda index, *_: index < count, body, (tf.constant(0), *start))[1:]


def _updated(tensor, part, start):
    indices = tf.stack([start, *[tf.constant(0)] * (tensor.shape.rank - 1)])
    return xla.dynamic_update_slice(tensor, part, indices)
