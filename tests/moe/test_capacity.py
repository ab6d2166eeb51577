"""Sparse layers drop tokens as in training for as long as they are asked to."""

import pytest
import tensorflow as tf

from limoe_tf.moe.capacity import as_in_training
from limoe_tf.moe.sparse import SparseFeedForward

# Tokens that are all alike go to one expert of three, which has room for C = ceil(12 / 3) = 4.
STREAMS, VALID = {"image": tf.ones([1, 12, 6])}, {"image": None}


def dropped(layer):
    outputs, _ = layer(STREAMS, VALID)
    return int(tf.reduce_sum(tf.cast(tf.reduce_all(outputs["image"] == 0, -1), tf.int32)))


def test_tokens_without_room_are_dropped_within_and_nowhere_else():
    layer = SparseFeedForward(5, num_experts=3, capacity_factor=1.0)
    assert dropped(layer) == 0
    with as_in_training([layer]):
        assert dropped(layer) == 8
    assert dropped(layer) == 0


def test_an_error_within_leaves_the_layers_as_they_were():
    layer = SparseFeedForward(5, num_experts=3, inference_capacity_factor=2.0)
    with pytest.raises(ZeroDivisionError), as_in_training([layer]):
        raise ZeroDivisionError
    assert layer.inference_capacity_factor == 2.0
