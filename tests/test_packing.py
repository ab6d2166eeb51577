"""A nest of tensors becomes one vector and comes back from it."""

import tensorflow as tf

from limoe_tf import packing


def test_a_nest_comes_back_from_its_vector():
    nest = {"b": tf.constant([1.0, 2.0, 3.0]), "a": {"c": tf.constant(4.0)}, "d": tf.eye(2)}
    vector = packing.packed(nest)
    assert vector.shape == (8,)
    found = packing.unpacked(vector + 1, nest)
    assert list(found) == ["b", "a", "d"]
    tf.nest.map_structure(lambda one, was: tf.debugging.assert_equal(one, was + 1), found, nest)
