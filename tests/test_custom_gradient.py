"""Gradients of one's own: those of `tf.custom_gradient`, until their graph is gone."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

from limoe_tf.custom_gradient import custom_gradient


@custom_gradient
def tripled(x):
    """Returns x, with a gradient that is three times as large as it should be."""
    return tf.identity(x), lambda upstream: 3 * upstream


def gradient_at_two(function):
    x = tf.constant(2.0)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def in_a_loop(x):
    return tf.while_loop(lambda i, _: i < 2, lambda i, y: (i + 1, tripled(y) ** 2), (0, x))[1]


def in_a_branch(x):
    return tf.cond(x > 0, lambda: tripled(x) ** 2, lambda: x)


def in_a_function(x):
    return tf.function(lambda y: tripled(y) ** 2, autograph=False)(x)


# Inside loops, branches and functions TensorFlow looks the gradient up by its name.
@pytest.mark.parametrize(
    "function, expected",
    [
        (lambda x: tripled(x) ** 2, 3 * 2 * 2),
        (in_a_branch, 3 * 2 * 2),
        (in_a_function, 3 * 2 * 2),
        # y = x^2, z = y^2: dz/dx = 3 * 2 y * 3 * 2 x = 6 * 4 * 6 * 2.
        (in_a_loop, 6 * 4 * 6 * 2),
    ],
)
@pytest.mark.parametrize("in_graph", [False, True])
def test_the_gradient_is_the_one_that_is_given(function, expected, in_graph):
    compute = tf.function(gradient_at_two, autograph=False) if in_graph else gradient_at_two
    np.testing.assert_allclose(compute(function), expected)


def test_several_results_keep_their_structure_and_a_gradient_each():
    @custom_gradient
    def swapped(x, y):
        return {"y": tf.identity(y), "x": tf.identity(x)}, lambda *upstream: upstream[::-1]

    @tf.function(autograph=False)
    def compute():
        x, y = tf.constant(1.0), tf.constant(2.0)
        with tf.GradientTape() as tape:
            tape.watch([x, y])
            results = swapped(x, y)
            total = 5 * results["x"] + 7 * results["y"]
        return results, tape.gradient(total, [x, y])

    results, gradients = compute()
    assert (float(results["x"]), float(results["y"])) == (1.0, 2.0)
    assert [float(g) for g in gradients] == [7.0, 5.0]  # The gradient of the other.


def test_a_graph_that_nobody_needs_goes_with_its_gradients_and_the_memory_it_reads():
    before = set(ops.gradient_registry.list())
    variable = tf.Variable(2.0)

    @tf.function(autograph=False)
    def compute():
        return gradient_at_two(lambda x: tripled(x * variable))

    assert float(compute()) == 6.0
    graph = weakref.ref(compute.get_concrete_function().graph)
    handle = weakref.ref(variable.handle)
    registered = set(ops.gradient_registry.list()) - before
    assert graph() is not None and registered
    compute = variable = None
    gc.collect()
    assert graph() is None and handle() is None
    assert not registered & set(ops.gradient_registry.list())
