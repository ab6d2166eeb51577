"""Blocks that are computed again give the same numbers and the same gradients."""

import functools

import pytest
import tensorflow as tf

from limoe_tf.train import step
from tests.shared import tiny


@functools.cache
def second_step(*, recompute_blocks, jit_compile=False):
    options = {"plan": ("dense", "sparse"), "recompute_blocks": recompute_blocks}
    return tiny.second_step(6, model_options=options, jit_compile=jit_compile)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_recomputed_blocks_train_as_kept_ones(jit_compile):
    found = second_step(recompute_blocks=True, jit_compile=jit_compile)
    tiny.assert_same_step(found, second_step(recompute_blocks=False))
    assert found[2] == [2]  # One draw of noise a step, although the block ran twice.


def test_a_recomputed_block_is_in_the_graph_twice():
    def matmuls(**options):
        model = tiny.limoe(plan=("dense", "dense"), **options)
        model.compile("sgd")
        graph = (
            tf.function(
                lambda batch: step.differentiate(model, batch, model.loss_weights), autograph=False
            )
            .get_concrete_function(tiny.tensors(6))
            .graph
        )
        return sum(o.type in ("MatMul", "BatchMatMulV2") for o in graph.get_operations())

    assert matmuls(recompute_blocks=True) > matmuls()
