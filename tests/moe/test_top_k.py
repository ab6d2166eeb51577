"""The largest entries and their gradient, against `tf.math.top_k`."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.moe.top_k import top_k

VALUES = tf.constant(np.random.default_rng(0).integers(0, 4, [3, 5, 7]), tf.float32)  # many ties


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("number", [1, 2, 7])
def test_entries_indices_and_gradient_are_those_of_top_k(number, jit_compile):
    upstream = tf.constant(np.random.default_rng(1).normal(size=[3, 5, number]), tf.float32)

    def step(function, values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            found, indices = function(values, number)
            loss = tf.reduce_sum(found * upstream)
        return found, indices, tape.gradient(loss, values)

    results = [
        tf.function(lambda values, f=function: step(f, values), jit_compile=jit_compile)(VALUES)
        for function in (top_k, lambda values, k: tuple(tf.math.top_k(values, k)))
    ]
    for result, expected in zip(*results):
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected)
