"""A loop over chunks gives the numbers and the gradients of one call, on any of its routes."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model import chunks

B, N, D = 6, 5, 7


def attend(query, key, value, valid=None):
    scores = tf.matmul(query, key, transpose_b=True)
    if valid is not None:
        scores += tf.where(valid, tf.zeros([], scores.dtype), -1e9)[:, tf.newaxis, :]
    return tf.matmul(tf.nn.softmax(scores), value)


def draw(dtype, *, padded):
    random = np.random.default_rng(0)
    tensors = [tf.constant(random.normal(size=[B, N, D]), dtype) for _ in range(3)]
    lengths = np.array([[5], [1], [3], [2], [4], [5]])
    return [*tensors, tf.constant(np.arange(N) < lengths)] if padded else tensors


def with_gradients(function, tensors):
    """The result and its gradients by the floating tensors, for a drawn upstream gradient."""
    watched = tensors[:3]
    upstream = tf.constant(np.random.default_rng(1).normal(size=[B, N, D]), watched[0].dtype)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        result = function(*tensors)
    return [result, *tape.gradient(result, watched, output_gradients=upstream)]


def compiled(function, tensors):
    run = tf.function(lambda: with_gradients(function, tensors), jit_compile=True, autograph=False)
    return run()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("float32", 1e-6)])
def test_result_and_gradients_are_those_of_automatic_differentiation(
    count, padded, dtype, tolerance
):
    tensors = draw(dtype, padded=padded)
    expected = with_gradients(attend, tensors)

    def looped(*tensors):
        return chunks.over_chunks(attend, tensors, count=count)

    for found, wanted in zip(compiled(looped, tensors), expected, strict=True):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_a_tensor_may_be_given_twice():
    tensors = draw("float64", padded=False)[:1]
    upstream = tf.ones([B, N, D], tf.float64)

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            result = function(tensors * 3)
        return tape.gradient(result, tensors, output_gradients=upstream)

    looped = tf.function(
        lambda: gradient(lambda three: chunks.over_chunks(attend, three, count=3)),
        jit_compile=True,
        autograph=False,
    )
    expected = gradient(lambda three: attend(*three))
    np.testing.assert_allclose(looped()[0], expected[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    "size, limit, expected", [(12, 5, 4), (12, 100, 12), (7, 6, 1), (128, 8, 8), (84, 4, 4)]
)
def test_the_largest_divisor_is_not_above_the_limit(size, limit, expected):
    assert chunks.largest_divisor(size, limit) == expected
