"""Each stream goes through a layer of its own."""

import json

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model.feedforward import DenseFeedForward
from limoe_tf.model.per_stream import PerStream
from limoe_tf.report import Report
from tests.shared import tiny


class Times(keras.layers.Layer):
    """Multiplies by a number and reports it."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, streams, valid, training=None):
        outputs = {name: self.factor * stream for name, stream in streams.items()}
        return outputs, Report({}, {"factor": tf.constant(self.factor)})


def test_streams_go_through_their_own_layers_and_reports_carry_their_names():
    layer = PerStream({"image": Times(2.0), "text": Times(3.0)})
    streams = {"image": tf.ones([1, 2, 4]), "text": tf.ones([1, 3, 4])}
    found, report = layer(streams, {"image": None, "text": None})
    assert (found["image"].numpy() == 2).all() and (found["text"].numpy() == 3).all()
    metrics = {name: float(value) for name, value in report.metrics.items()}
    assert metrics == {"image/factor": 2, "text/factor": 3}


def test_a_stream_without_a_layer_is_refused():
    layer = PerStream({"image": Times(2.0)})
    with pytest.raises(ValueError, match=r"among \['image'\]. Received: stream='sound'"):
        layer({"sound": tf.ones([1, 2, 4])}, {"sound": None})


def test_what_summaries_list_changes_nothing_in_saved_files(tmp_path):
    model = tiny.two_tower(depth=1)
    model.save_weights(tmp_path / "one.weights.h5")
    with h5py.File(tmp_path / "one.weights.h5") as file:
        towers = file["encoder/layers"]
        assert len(towers) == 2
        for tower in towers.values():
            (block,) = tower["blocks"].values()
            assert "query" in block["attention"] and "final_norm" in tower
    encoder = model.encoder
    assert encoder.layers == [encoder.of_stream[name] for name in ("image", "text")]
    assert encoder.layers[0] is encoder.image_encoder


class Centred(keras.layers.Layer):
    """Takes the mean over all tokens of a call away, and reports how many there were."""

    def call(self, streams, valid, training=None):
        joined = tf.concat(list(streams.values()), axis=1)
        outputs = {name: stream - tf.reduce_mean(joined) for name, stream in streams.items()}
        return outputs, Report({}, {"tokens": tf.constant(float(joined.shape[1]))})


LENGTHS = {"image": 2, "text": 3, "pair_image": 4}


def drawn():
    return {name: tf.random.normal([1, n, 4], mean=n, seed=n) for name, n in LENGTHS.items()}


@pytest.mark.parametrize(
    "together, reported",
    [
        (False, {"image/tokens": 2, "text/tokens": 3, "pair_image/tokens": 4}),
        # A call for several streams has the name of the layer; that for one has its stream's.
        (True, {"all_images/tokens": 2 + 4, "text/tokens": 3}),
    ],
)
def test_streams_of_one_layer_are_one_call_of_it_if_they_are_to_be_together(together, reported):
    shared, streams = Centred(name="all_images"), drawn()
    of_stream = {"image": shared, "text": Centred(name="of_text"), "pair_image": shared}
    layer = PerStream(of_stream, together=together)
    assert layer.layers == [shared, of_stream["text"]]
    found, report = layer(streams)
    assert {name: float(value) for name, value in report.metrics.items()} == reported
    assert list(found) == list(streams)
    images = tf.concat([streams["image"], streams["pair_image"]], axis=1)
    for name, stream in streams.items():
        mean = tf.reduce_mean(images if together and "image" in name else stream)
        np.testing.assert_allclose(found[name], stream - mean, atol=1e-6)


def test_each_layer_has_a_norm_of_its_own_in_front():
    shared = Times(2.0)
    layer = PerStream({"image": shared, "text": Times(3.0), "pair_image": shared}, norms=True)
    streams = drawn()
    layer.build({name: stream.shape for name, stream in streams.items()})
    layer.norms[0].set_weights([np.full(4, 5.0), np.full(4, 1.0)])  # Times 5, plus 1.
    found, _ = layer(streams)
    for name, stream in streams.items():
        centred = stream - tf.reduce_mean(stream, axis=-1, keepdims=True)
        normed = centred / tf.sqrt(tf.reduce_mean(centred**2, axis=-1, keepdims=True) + 1e-6)
        expected = 3 * normed if name == "text" else 2 * (5 * normed + 1)
        np.testing.assert_allclose(found[name], expected, atol=1e-3)
    assert len(layer.trainable_variables) == 2 * 2


def test_the_config_keeps_which_streams_share_a_layer():
    shared = DenseFeedForward(5, name="of_images")
    of_stream = {"image": shared, "text": DenseFeedForward(7), "pair_image": shared}
    layer = PerStream(of_stream, together=True, norms=True)
    streams = drawn()
    expected, _ = layer(streams)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.of_stream["image"] is again.of_stream["pair_image"] is again.of_images
    assert again.of_stream["text"].hidden_width == 7 and len(again.layers) == 2
    assert again.together and len(again.norms) == 2
    again.set_weights(layer.get_weights())
    for name, value in again(streams)[0].items():
        np.testing.assert_array_equal(value, expected[name])
