"""A materialized tensor has the same values under XLA, and a barrier in the program."""

import numpy as np
import tensorflow as tf

from limoe_tf.xla import materialized


def twice(x):
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = 2 * materialized(x + 1)
    return outputs, tape.gradient(outputs, x)


def test_materialized_values_and_their_gradients_are_the_same_with_and_without_xla():
    x = tf.constant([1.0, -2.0])
    for compute in (twice, tf.function(twice, jit_compile=True)):
        outputs, slope = compute(x)
        np.testing.assert_array_equal(outputs, [4.0, -2.0])
        np.testing.assert_array_equal(slope, [2.0, 2.0])


def test_xla_is_given_a_barrier_and_a_graph_is_not():
    x = tf.constant([1.0, -2.0])
    compiled = tf.function(twice, jit_compile=True)
    assert "opt-barrier" in compiled.experimental_get_compiler_ir(x)(stage="hlo")
    graph = tf.function(twice).get_concrete_function(x).graph
    assert not any("Barrier" in operation.type for operation in graph.get_operations())
