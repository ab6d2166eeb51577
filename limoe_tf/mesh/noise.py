"""Random numbers of a step: a function of (seed, step, token), the same on every machine.

TensorFlow's own generators draw other numbers when XLA compiles them, and a replica would have to
know what the others drew. Here each number is a hash of its index in the global batch: eager, graph
and XLA, one replica and many, all get the same noise.

Axis letters: G groups of a replica, S tokens in a group, E experts.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.xla import in_xla


def uniform(shape: Sequence, seed: tf.Tensor) -> tf.Tensor:
    """Returns <float32>[G, S, E] in the open interval (0, 1).

    Args:
      shape: [G, S, E] of ints or <int32>[].
      seed: <int32>[2].
    """
    first_group = tf.convert_to_tensor(replicas.current().index * shape[0])
    static = all(isinstance(size, int) for size in shape)
    if in_xla() or not static:
        return _draw(first_group, seed, tuple(shape))
    # TensorFlow's optimizer of graphs does not look into compiled functions, and logs half a page
    # on a softmax whose shape it does not know ("Error in PredictCost()").
    return tf.ensure_shape(_compiled_draw(first_group, seed, tuple(shape)), shape)


def _draw(first_group, seed, shape):
    groups, tokens, experts = shape
    group = first_group + tf.range(groups)[:, tf.newaxis, tf.newaxis]
    index = (group * tokens + tf.range(tokens)[:, tf.newaxis]) * experts + tf.range(experts)
    keys = _hashed(tf.cast(seed, tf.uint32) + tf.constant([0x9E3779B9, 0x85EBCA6B], tf.uint32))
    bits = _hashed(_hashed(tf.cast(index, tf.uint32) + keys[0]) + keys[1])
    # 23 bits and the half are as many as a float32 holds exactly. With 24, the largest number would
    # be rounded to 1 and the normal distribution's quantile there is infinite.
    high = tf.cast(tf.bitwise.right_shift(bits, _uint32(9)), tf.int32)
    return (tf.cast(high, tf.float32) + 0.5) * 2.0**-23


# The bits are the same with and without XLA; a dozen passes over memory become one.
_compiled_draw = tf.function(_draw, jit_compile=True, autograph=False)


def normal(shape: Sequence, seed: tf.Tensor) -> tf.Tensor:
    """Returns <float32>[G, S, E] of the standard normal distribution; see `uniform`."""
    return tf.math.ndtri(uniform(shape, seed))


def add_counter(layer: Any) -> Any:
    """Adds the weight `draws` to a Keras layer, which counts what it draws, and returns it.

    A weight, so that a restored run goes on with the same numbers.
    """
    return layer.add_weight(
        name="draws",
        shape=(),
        dtype="int32",
        initializer="zeros",
        trainable=False,
        aggregation="only_first_replica",
    )


def next_seed(layer: Any) -> tf.Tensor:
    """Returns <int32>[2], different at every call, of a layer with a `seed` and `draws`."""
    seed = tf.stack([layer.seed, tf.convert_to_tensor(layer.draws.value)])
    layer.draws.assign(layer.draws + 1)
    return seed


def _hashed(bits):
    """Returns a bijective hash of <uint32>[...], in which every input bit moves every output bit.

    Reference: the two-round multiply and shift of https://nullprogram.com/blog/2018/07/31/.
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits = tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, _uint32(shift)))
        bits *= _uint32(factor)
    return tf.bitwise.bitwise_xor(bits, tf.bitwise.right_shift(bits, _uint32(16)))


def _uint32(value):
    return tf.constant(value, tf.uint32)
