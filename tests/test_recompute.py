"""Blocks that are computed again give the same numbers and the same gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tiny
from limoe_tf.train import step


def two_steps(jit_compile=False, **options):
    """Logs and gradients of a second step, and the counters of the noise."""
    keras.utils.set_random_seed(0)
    model = tiny.limoe(plan=("dense", "sparse"), **options)
    model.compile("sgd")
    differentiate = tf.function(
        lambda batch: step.differentiate(model, batch, model.loss_weights),
        jit_compile=jit_compile,
        autograph=False,
    )
    differentiate(tiny.tensors(6))
    logs, gradients = differentiate(tiny.tensors(6, seed=1))
    return logs, gradients, [v.numpy() for v in model.non_trainable_variables]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_recomputed_blocks_train_as_kept_ones(jit_compile):
    expected = two_steps()
    found = two_steps(jit_compile=jit_compile, recompute_blocks=True)
    tf.nest.assert_same_structure(found[:2], expected[:2])
    for value, wanted in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        scale = max(0.1, np.abs(wanted).max())
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-5 * scale)
    assert found[2] == [2]  # One draw of noise a step, although the block ran twice.


def test_a_recomputed_block_is_in_the_graph_twice():
    def matmuls(**options):
        model = tiny.limoe(plan=("dense", "dense"), **options)
        model.compile("sgd")
        graph = tf.function(
            lambda batch: step.differentiate(model, batch, model.loss_weights), autograph=False
        ).get_concrete_function(tiny.tensors(6)).graph
        return sum(o.type in ("MatMul", "BatchMatMulV2") for o in graph.get_operations())

    assert matmuls(recompute_blocks=True) > matmuls()
