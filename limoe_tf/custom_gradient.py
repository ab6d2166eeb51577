"""Gradients of one's own that a process forgets together with the graph they were traced into."""

import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops


def custom_gradient(function: Callable) -> Callable:
    """As `tf.custom_gradient`; what it registers while tracing goes when the graph goes.

    TensorFlow registers the gradient of each traced call for ever. The gradient knows the graph,
    and the graph the memory of all variables that it reads: a process that trains one model after
    another would keep them all.

    Args:
      function: as for `tf.custom_gradient`, called with positional arguments.
    """
    with_gradient = tf.custom_gradient(function)

    # Not `functools.wraps`, by which autograph would find and call what is wrapped.
    def call(*arguments):
        return leave_to_graph(with_gradient(*arguments))

    return call


def leave_to_graph(results: Any) -> Any:
    """Returns `results` of a call with a custom gradient, whose graph then owns that gradient.

    Args:
      results: tensor, or nest of tensors. Eager ones are returned as they are.
    """
    result = tf.nest.flatten(results)[0]
    if tf.is_symbolic_tensor(result):
        registered = ops.gradient_registry._registry
        name = result.op.get_attr("_gradient_op_type").decode()
        gradient = registered[name]["type"]
        result.graph._custom_gradients = [*getattr(result.graph, "_custom_gradients", ()), gradient]
        registered[name]["type"] = _Weak(gradient)
        weakref.finalize(result.graph, registered.pop, name, None).atexit = False
    return results


class _Weak:
    """Calls a function without keeping it alive."""

    def __init__(self, function):
        self._function = weakref.ref(function)

    def __call__(self, *arguments):
        return self._function()(*arguments)
