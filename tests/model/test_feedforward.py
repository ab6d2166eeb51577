"""The dense feed-forward against NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model.feedforward import DenseFeedForward

# https://arxiv.org/abs/1606.08415, the form with tanh.
gelu = np.vectorize(
    lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
)


@pytest.mark.parametrize("training", [False, True])
def test_every_token_of_every_stream_goes_through_one_mlp(training):
    layer, random = DenseFeedForward(13), np.random.default_rng(0)
    layer.build({"image": (None, None, 6)})
    for variable in layer.trainable_variables:
        variable.assign(random.normal(0, 0.5, variable.shape))
    streams = {"image": random.normal(size=[2, 5, 6]), "text": random.normal(size=[2, 3, 6])}
    found, report = layer(
        {name: tf.constant(stream, tf.float32) for name, stream in streams.items()},
        {"image": None, "text": None},
        training=training,
    )
    kernel_in, bias_in, kernel_out, bias_out = (v.numpy() for v in layer.trainable_variables)
    for name, stream in streams.items():
        expected = gelu(stream @ kernel_in + bias_in) @ kernel_out + bias_out
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5)
    assert (report.losses, report.metrics) == ({}, {})
