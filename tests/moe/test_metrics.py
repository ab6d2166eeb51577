"""Metrics of sparse layers: what several batches' Reports come to, and the logs of `fit`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf import metrics
from limoe_tf.moe.sparse import SparseFeedForward
from limoe_tf.report import Report


def report(image, text, counts):
    """A Report of two streams: success rates, and the choices that each of 4 experts kept."""
    numbers = {"success_rate_image": image, "success_rate_text": text}
    counts = {f"tokens_{name}": tf.constant(count, tf.float32) for name, count in counts.items()}
    return Report({}, {**{k: tf.constant(v) for k, v in numbers.items()}, **counts})


FIRST = report(1.0, 0.5, {"image": [4, 0, 0, 0], "text": [0, 2, 0, 0]})
SECOND = report(0.5, 0.0, {"image": [0, 4, 0, 0], "text": [2, 0, 0, 0]})


def result(metric):
    for one in (FIRST, SECOND):
        metric.update_state(one)
    return float(metric.result())


def test_success_rates_are_averaged_over_batches():
    assert result(metrics.SuccessRate("image")) == 0.75  # of 1 and 0.5
    assert result(metrics.SuccessRate()) == 0.5  # of 1, 0.5, 0.5 and 0


def test_experts_in_use_are_counted_over_all_batches():
    # Each batch's images use one expert, both batches' two, equally: exp(log 2).
    np.testing.assert_allclose(result(metrics.ExpertsInUse(4, "image")), 2, rtol=1e-5)
    metric = metrics.ExpertsInUse(4)
    metric.update_state(FIRST)
    # Shares 2/3 and 1/3: exp(log 3 - 2/3 log 2) = 3 / 2^(2/3).
    np.testing.assert_allclose(metric.result(), 3 / 2 ** (2 / 3), rtol=1e-5)
    metric.reset_state()
    np.testing.assert_allclose(metric.result(), 1)  # exp of no entropy


def test_a_report_of_other_experts_is_refused():
    with pytest.raises(ValueError, match="num_experts=3. Received: 4"):
        metrics.ExpertsInUse(3).update_state(FIRST)


def test_a_model_logs_the_metrics_of_its_sparse_layer_and_saves_them_with_it(tmp_path):
    layer = SparseFeedForward(
        4,
        num_experts=4,
        capacity_factor=0.5,
        slots_multiple_of=1,
        router_noise=0.0,
        routing_metrics=[metrics.SuccessRate(), metrics.ExpertsInUse(4, name="experts")],
    )
    model = keras.Sequential([keras.Input((6, 5)), layer])
    model.compile("sgd", "mse", jit_compile=False)
    inputs = np.random.default_rng(0).normal(size=(8, 6, 5)).astype("float32")
    logs = model.fit(inputs, inputs, batch_size=4, verbose=0).history
    # 24 tokens, 3 slots of each of 4 experts: half of the tokens at most.
    assert 0.1 < logs["success_rate"][0] <= 0.5 and 1 < logs["experts"][0] <= 4
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    expected = [(type(one), one.get_config()) for one in layer.routing_metrics]
    found = [(type(one), one.get_config()) for one in again.layers[0].routing_metrics]
    assert found == expected
    assert again.evaluate(inputs, inputs, verbose=0, return_dict=True)["success_rate"] == 1
