"""The encoder runs its blocks one after another and names what they report by their number."""

import keras
import numpy as np
import tensorflow as tf

from limoe_tf.model.encoder import Encoder
from limoe_tf.report import Report


class Affine(keras.layers.Layer):
    """Computes a x + b, and reports b as a loss."""

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = a, b

    def call(self, streams, valid, training=None):
        outputs = {name: self.a * stream + self.b for name, stream in streams.items()}
        return outputs, Report({"offset": tf.constant(self.b)}, {})


def test_blocks_follow_each_other_and_a_norm_comes_last():
    encoder = Encoder([Affine(2.0, 1.0), Affine(5.0, 3.0)])
    stream = tf.random.normal([2, 3, 4], seed=0)
    found, report = encoder({"image": stream}, {"image": None})
    expected = encoder.final_norm(5 * (2 * stream + 1) + 3)
    np.testing.assert_allclose(found["image"], expected, rtol=0, atol=1e-5)
    assert {name: float(loss) for name, loss in report.losses.items()} == {
        "block_00/offset": 1,
        "block_01/offset": 3,
    }
