"""Each stream goes through a layer of its own."""

import h5py
import keras
import pytest
import tensorflow as tf

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
