"""XLA: whether it compiles what is traced, what is asked of it, and the GELU that it compiles.

In a TensorFlow graph on a CPU the GELU in its tanh form is ten passes over memory, forward and
backward; compiled by XLA it is one each way.
"""

import math

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util

_SCALE = math.sqrt(2 / math.pi)
_CUBE = 0.044715


def in_xla():
    """Returns whether the code being traced will be compiled by XLA."""
    return control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())


def held(tensor):
    """Returns `tensor`; XLA shall compute it once, as it stands, whoever reads it.

    Without that it may compute a cheap expression anew, from all that it is made of, for each of
    its readers, and give it another shape. Does nothing outside XLA.

    Args:
      tensor: <float>[...].
    """
    return _held(tensor) if in_xla() else tensor


@tf.custom_gradient
def _held(tensor):
    return xla.optimization_barrier(tensor)[0], lambda upstream: upstream


def gelu(x):
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


@tf.custom_gradient
def _compiled(x):
    return _forward(x), lambda upstream: _backward(x, upstream)


def training_gelu(x):
    """Returns `gelu(x)`, compiled with its gradient unless XLA compiles the surroundings anyway.

    Meant for training, where shapes are static: each new shape is compiled once.
    """
    if in_xla() or not x.shape.is_fully_defined():
        return gelu(x)
    return _compiled(x)
