"""A block is a residual of attention, then one of the feed-forward, each behind its own norm."""

import keras
import numpy as np
import tensorflow as tf

from limoe_tf.model.block import Block
from limoe_tf.report import Report


class Scale(keras.layers.Layer):
    """Multiplies by a number, and reports the largest mean of what it is given."""

    def call(self, streams, valid, training=None):
        means = [tf.reduce_max(tf.abs(tf.reduce_mean(s, axis=-1))) for s in streams.values()]
        return {name: 3 * s for name, s in streams.items()}, Report({}, {"mean": max(means)})


def test_norms_precede_and_shortcuts_bypass_both_parts():
    block = Block(2, Scale())
    stream = tf.random.normal([2, 5, 6], seed=0)
    streams, valid = {"image": stream, "text": 2 * stream[:, :3]}, {"image": None, "text": None}
    found, report = block(streams, valid)
    for name, tokens in streams.items():
        attended = tokens + block.attention(block.attention_norm(tokens), None)
        expected = attended + 3 * block.feed_forward_norm(attended)
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-5)
    # What a fresh norm hands to the feed-forward has mean 0.
    assert report.metrics["mean"] < 1e-5


def test_streams_do_not_attend_to_each_other():
    block = Block(2, Scale())
    image, text = tf.random.normal([2, 5, 6], seed=0), tf.random.normal([2, 3, 6], seed=1)
    valid = {"image": None, "text": None}
    found, _ = block({"image": image, "text": text}, valid)
    other, _ = block({"image": image, "text": -text}, valid)
    np.testing.assert_array_equal(found["image"], other["image"])
