"""Clipping is Keras' own, by the norms of the whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.train import gradients

PATHS = ["dense/kernel", "moe/experts/kernel_in", "moe/experts/bias_in"]
VALUES = [
    np.array([[3.0, -4.0]], "float32"),
    np.array([[1.0, 2.0], [2.0, 0.0]], "float32"),
    np.array([0.0, 12.0], "float32"),
]


BOUNDS = [{"clipnorm": 4.0}, {"global_clipnorm": 6.5}, {"clipvalue": 1.5}, {}, {"clipnorm": 99.0}]


@pytest.mark.parametrize("bound", BOUNDS)
def test_gradients_are_clipped_as_keras_does(bound):
    found = gradients.clipped([tf.constant(v) for v in VALUES], PATHS, **bound)
    expected = keras.optimizers.SGD(**bound)._clip_gradients([tf.constant(v) for v in VALUES])
    for value, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-6)


def test_norms_are_those_of_each_variable():
    # 3-4-5; 1 + 4 + 4 = 9; 12. Together 5-12-13 and 3: the root of 178.
    found = gradients.norms([tf.constant(v) for v in VALUES], PATHS)
    np.testing.assert_allclose(found, [5, 3, 12], rtol=1e-6)
    clipped = gradients.clipped([tf.constant(v) for v in VALUES], PATHS, global_clipnorm=1.0)
    np.testing.assert_allclose(clipped[2][1], 12 / 178**0.5, rtol=1e-6)


def test_an_optimizer_needs_every_gradient_to_clip_by_their_norm():
    variables = [keras.Variable(value) for value in VALUES]
    optimizer = gradients.with_reduced_gradients(keras.optimizers.SGD(global_clipnorm=1.0))
    optimizer.build(variables)
    with pytest.raises(ValueError, match="2 gradients for 3 variables"):
        optimizer.apply([tf.constant(v) for v in VALUES[:2]], variables[:2])
