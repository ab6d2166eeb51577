"""Self-attention against NumPy, one example and one head at a time."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model.attention import SelfAttention

B, N, D, A = 3, 5, 14, 2


@pytest.fixture
def layer():
    layer = SelfAttention(A)
    layer.build((None, N, D))
    random = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        variable.assign(random.normal(0, 0.5, variable.shape))
    return layer


def draw():
    return np.random.default_rng(1).normal(size=[B, N, D]).astype("float32")


def project(dense, tokens):
    return tokens @ dense.kernel.numpy() + dense.bias.numpy()


def attend(layer, tokens):
    """Attention over the tokens [n, D] of one example, all of them valid."""
    query, key, value = (project(getattr(layer, n), tokens) for n in ("query", "key", "value"))
    heads = []
    for part in np.split(np.arange(D), A):
        scores = query[:, part] @ key[:, part].T / np.sqrt(D // A)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(shares / shares.sum(axis=1, keepdims=True) @ value[:, part])
    return project(layer.output_projection, np.concatenate(heads, axis=1))


def test_each_head_of_each_example_is_softmax_attention(layer):
    tokens = draw()
    expected = [attend(layer, example) for example in tokens]
    np.testing.assert_allclose(layer(tf.constant(tokens)), expected, rtol=0, atol=1e-5)


def test_padding_is_attended_to_by_nobody(layer):
    tokens, lengths = draw(), [5, 3, 1]
    valid = np.arange(N) < np.array(lengths)[:, np.newaxis]
    found = layer(tf.constant(tokens), tf.constant(valid)).numpy()
    for example, length, tokens_of_one in zip(found, lengths, tokens):
        expected = attend(layer, tokens_of_one[:length])
        np.testing.assert_allclose(example[:length], expected, rtol=0, atol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="must divide the width. Received: num_heads=3, width=14"):
        SelfAttention(3).build((None, N, D))
