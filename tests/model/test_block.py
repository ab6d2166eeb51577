"""A block is a residual of attention, then one of the feed-forward, each behind its own norm."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model.block import Block
from limoe_tf.model.feedforward import DenseFeedForward
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


def test_joint_streams_attend_to_each_other_as_one_and_others_to_themselves():
    block = Block(2, Scale(), joint=(("text", "image"), ("sound",)))
    streams = {
        name: tf.random.normal([2, length, 6], seed=length)
        for name, length in (("image", 5), ("lone", 4), ("text", 3))
    }
    flags = tf.constant([[True, True, False], [True, False, False]])
    valid = {"image": None, "lone": None, "text": flags}
    found, _ = block(streams, valid)
    assert list(found) == ["image", "lone", "text"]
    joined = tf.concat([streams["text"], streams["image"]], axis=1)  # In the order of the set.
    flags = tf.concat([flags, tf.ones([2, 5], bool)], axis=1)
    attended = joined + block.attention(block.attention_norm(joined), flags)
    joined = attended + 3 * block.feed_forward_norm(attended)
    np.testing.assert_allclose(found["text"], joined[:, :3], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["image"], joined[:, 3:], rtol=0, atol=1e-5)
    alone, _ = block({"lone": streams["lone"]}, {"lone": None})
    np.testing.assert_array_equal(found["lone"], alone["lone"])


def test_a_joint_stream_without_the_others_is_alone():
    joint, plain = Block(2, Scale(), joint=(("text", "image"),)), Block(2, Scale())
    stream = {"image": tf.random.normal([2, 5, 6], seed=0)}
    for block in (joint, plain):
        block.build({"image": (None, None, 6)})
    plain.set_weights(joint.get_weights())
    np.testing.assert_array_equal(joint(stream)[0]["image"], plain(stream)[0]["image"])


def test_a_feed_forward_can_do_without_a_norm_in_front():
    block, stream = Block(2, Scale(), norm_feed_forward=False), tf.random.normal([2, 5, 6], seed=0)
    found, _ = block({"image": stream})
    attended = stream + block.attention(block.attention_norm(stream), None)
    np.testing.assert_allclose(found["image"], attended + 3 * attended, rtol=0, atol=1e-5)
    assert block.feed_forward_norm is None
    assert block.layers == [block.attention_norm, block.attention, block.feed_forward]


def test_layer_scale_multiplies_what_is_added():
    block, stream = Block(2, Scale(), layer_scale=0.1), tf.random.normal([2, 5, 6], seed=0)
    block({"image": stream})
    first, second = block.scales
    np.testing.assert_array_equal(first, np.full(6, 0.1, "float32"))
    first.assign(np.arange(6))
    second.assign(np.arange(6) - 2)
    found, _ = block({"image": stream})
    attended = stream + np.arange(6.0) * block.attention(block.attention_norm(stream), None)
    expected = attended + (np.arange(6.0) - 2) * 3 * block.feed_forward_norm(attended)
    np.testing.assert_allclose(found["image"], expected, rtol=0, atol=1e-5)


class Ones(keras.layers.Layer):
    """Adds one to each token."""

    def call(self, streams, valid, training=None):
        return {name: tf.ones_like(s) for name, s in streams.items()}, Report({}, {})


def dropping(rate, examples=400):
    """What a block whose attention adds nothing has added to each token, by stream."""
    block = Block(2, Ones(), joint=(("pair_text", "pair_image"),), drop_path=rate)
    names = ("pair_text", "lone", "pair_image")
    streams = {name: tf.zeros([examples, 2, 6]) for name in names}
    block.build({name: stream.shape for name, stream in streams.items()})
    block.attention.output_projection.set_weights([np.zeros([6, 6]), np.zeros(6)])
    return block, lambda: {k: v.numpy() for k, v in block(streams, training=True)[0].items()}


def test_paths_are_dropped_by_example_and_joint_streams_together():
    _, call = dropping(0.25)
    found = call()
    for value in found.values():
        # All of an example, or nothing; what is left is divided by the rest.
        np.testing.assert_array_equal(value, np.broadcast_to(value[:, :1, :1], value.shape))
        assert set(value.flat) == {0, np.float32(1 / 0.75)}
        # 400 draws have a deviation of (0.25 / 0.75 / 400)^0.5 = 0.029 around 1.
        assert abs(value.mean() - 1) < 4 * 0.029
    np.testing.assert_array_equal(found["pair_text"], found["pair_image"])
    agree = (found["pair_text"] == found["lone"]).mean()
    assert agree < 0.8  # 0.25^2 + 0.75^2 = 0.625 if they are independent.


def test_draws_of_paths_differ_by_call_and_are_a_function_of_their_number():
    block, call = dropping(0.5)
    first, second = call()["lone"], call()["lone"]
    assert 0.3 < (first == second).mean() < 0.7
    assert int(block.draws) == 4
    block.draws.assign(0)
    np.testing.assert_array_equal(call()["lone"], first)
    other = Block(2, Ones(), drop_path=0.5, seed=1)
    stream = {"lone": tf.zeros([400, 2, 6])}
    other.build({"lone": (None, None, 6)})
    other.attention.output_projection.set_weights([np.zeros([6, 6]), np.zeros(6)])
    assert (other(stream, training=True)[0]["lone"].numpy() != first).any()
    np.testing.assert_array_equal(other(stream)[0]["lone"], np.ones([400, 2, 6]))


def test_attention_is_dropped_apart_from_the_feed_forward():
    block = Block(2, Ones(), drop_path=0.5, norm_feed_forward=False)
    stream = tf.random.normal([64, 2, 6], seed=0)
    block({"image": stream})
    found = block({"image": stream}, training=True)[0]["image"] - stream
    attended = 2 * block.attention(block.attention_norm(stream), None)
    parts = {(a, f): np.abs(found - (a * attended + 2 * f)).max(axis=(1, 2)) < 1e-4
             for a in (0.0, 1.0) for f in (0.0, 1.0)}  # fmt: skip
    counts = {kind: int(where.sum()) for kind, where in parts.items()}
    # Of 64 examples about 16 each, with a deviation of 3.5.
    assert sum(counts.values()) == 64 and min(counts.values()) > 2, counts


def test_the_config_keeps_all_options():
    options = {"norm_feed_forward": False, "layer_scale": 0.2, "drop_path": 0.3, "seed": 5}
    block = Block(2, DenseFeedForward(7), joint=(("text", "image"),), **options)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(block)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.joint == (("text", "image"),) and again.feed_forward_norm is None
    assert (again.layer_scale, again.drop_path, again.seed) == (0.2, 0.3, 5)


@pytest.mark.parametrize("changes, fault", [({"drop_path": 1.0}, "0.99"), ({"seed": -1}, "least")])
def test_values_that_make_no_sense_are_refused(changes, fault):
    with pytest.raises(ValueError, match=fault):
        Block(2, Ones(), **changes)
