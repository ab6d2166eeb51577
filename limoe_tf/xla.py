"""XLA: whether it compiles what is traced, optimization barriers, and a compiled GELU.

In a TensorFlow graph on a CPU the GELU in its tanh form is ten passes over memory, forward and
backward; compiled by XLA it is one each way.
"""

import math

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util

from limoe_tf.custom_gradient import custom_gradient

_SCALE = math.sqrt(2 / math.pi)
_CUBE = 0.044715


def in_xla() -> bool:
    """Returns whether the code being traced will be compiled by XLA."""
    return control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())


def materialized(tensor: tf.Tensor) -> tf.Tensor:
    """Returns `tensor` behind an optimization barrier, so that XLA computes it once, as it is.

    Without the barrier XLA may fuse a cheap expression into each of its consumers, which then read
    all of its inputs again, and may give it another shape. Does nothing outside XLA.

    Args:
      tensor: <float>[...].
    """
    return _behind_barrier(tensor) if in_xla() else tensor


@custom_gradient
def _behind_barrier(tensor):
    return xla.optimization_barrier(tensor)[0], lambda upstream: upstream


def gelu(x: tf.Tensor) -> tf.Tensor:
    """Returns 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).

    Args:
      x: <float>[...].

    Returns:
      <float>[...] of the same dtype.

    Reference: https://arxiv.org/abs/1606.08415, section 2.
    """
    return tf.nn.gelu(x, approximate=True)


@tf.function(jit_compile=True, autograph=False)
def _forward(x):
    return gelu(x)


@tf.function(jit_compile=True, autograph=False)
def _backward(x, upstream):
    tanh = tf.tanh(_SCALE * (x + _CUBE * x * x * x))
    slope = 0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * _SCALE * (1 + 3 * _CUBE * x * x)
    return upstream * slope


@custom_gradient
def _compiled(x):
    return _forward(x), lambda upstream: _backward(x, upstream)


def training_gelu(x: tf.Tensor) -> tf.Tensor:
    """Returns `gelu(x)`, compiled with its gradient unless XLA compiles the surroundings anyway.

    Meant for training, where shapes are static: each new shape is compiled once.
    """
    if in_xla() or not x.shape.is_fully_defined():
        return gelu(x)
    return _compiled(x)
