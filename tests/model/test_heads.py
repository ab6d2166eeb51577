"""The head means the valid tokens, projects them, and brings the result to unit length."""

import numpy as np
import tensorflow as tf

from limoe_tf.model.heads import Head, unit_length

TOKENS = np.random.default_rng(0).normal(size=[2, 4, 6]).astype("float32")


def test_padding_has_no_part_in_the_mean():
    head = Head(3)
    found = head(tf.constant(TOKENS), tf.constant([[True] * 4, [True, True, False, False]]))
    means = np.stack([TOKENS[0].mean(axis=0), TOKENS[1, :2].mean(axis=0)])
    expected = means @ head.projection.kernel.numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_text_without_tokens_is_the_zero_vector_and_not_nan():
    found = Head(3)(tf.constant(TOKENS), tf.constant([[True] * 4, [False] * 4]))
    np.testing.assert_array_equal(found[1], np.zeros(3))


def test_vectors_of_any_length_come_to_length_one():
    vectors = TOKENS[0] * [[1e-3], [1.0], [1e3], [0.0]]
    lengths = np.linalg.norm(unit_length(tf.constant(vectors, tf.float32)), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 1, 0], rtol=0, atol=1e-5)
