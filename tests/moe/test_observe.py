"""The Report: numbers by hand, padding, one replica and many."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.moe.assign import Assignment
from limoe_tf.moe.observe import loss_names, observe
from limoe_tf.moe.router import Gates
from limoe_tf.moe.sparse import SparseFeedForward
from limoe_tf.tokens import Layout
from tests.shared import tiny

MODALITIES = ("image", "text")


def observe_two_images_and_three_texts(padding_gates=(0.5, 0.5)):
    """One group, two experts, K = 1; the last text is padding, the second text is dropped."""
    gates = tf.constant([[[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.4, 0.6], padding_gates]])
    logits = tf.math.log(gates)
    assignment = Assignment(
        expert=tf.constant([[[0], [0], [1], [1], [0]]]),
        slot=tf.constant([[[0], [1], [0], [1], [2]]]),
        weight=tf.reduce_max(gates, axis=-1, keepdims=True),
        kept=tf.constant([[[True], [True], [True], [False], [False]]]),
    )
    return observe(
        Gates(gates, gates, logits, logits),
        assignment,
        tf.constant([[True, True, True, True, False]]),
        Layout(shapes={"image": (1, 2), "text": (1, 3)}, lengths={"image": 2, "text": 3}),
        num_choices=1,
        noise_std=0.5,
        min_experts={"image": 2, "text": 2},
    )


def entropy(*distribution):
    return -sum(p * math.log(p) for p in distribution)


def test_the_report_of_a_small_group_by_hand():
    losses, metrics = observe_two_images_and_three_texts()
    expected_metrics = {
        "success_rate_image": 1,
        "success_rate_text": 1 / 2,  # of the two that are not padding
        "tokens_image": [2, 0],
        "tokens_text": [0, 1],
        "marginal_entropy_image": entropy(0.7, 0.3),
        "marginal_entropy_text": entropy(0.3, 0.7),
        "max_gate_image": (0.9 + 0.5) / 2,
        "max_gate_text": (0.8 + 0.6) / 2,
    }
    expected_losses = {
        "importance": 0,  # masses 0.9 + 0.5 + 0.2 + 0.4 = 2 and 2
        "z": 0,  # logits are logarithms of probabilities
        "local_entropy_image": (entropy(0.9, 0.1) + entropy(0.5, 0.5)) / 2,
        "local_entropy_text": (entropy(0.2, 0.8) + entropy(0.4, 0.6)) / 2,
        "global_entropy_image": math.log(2) - entropy(0.7, 0.3),
        "global_entropy_text": math.log(2) - entropy(0.3, 0.7),
        "mutual_information": entropy(0.7, 0.3) - math.log(2),  # both together: (0.5, 0.5)
    }
    assert set(metrics) == set(expected_metrics)
    assert set(losses) == {*expected_losses, "load"} == set(loss_names(MODALITIES))
    for name, value in {**expected_metrics, **expected_losses}.items():
        result = {**metrics, **losses}[name]
        np.testing.assert_allclose(result, value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_padding_takes_no_part_in_the_report():
    reports = [observe_two_images_and_three_texts(gates) for gates in ((0.5, 0.5), (0.01, 0.99))]
    for value, other in zip(*map(tf.nest.flatten, reports)):
        np.testing.assert_array_equal(value, other)


def take_step(layer, streams, valid):
    """Report, and gradients of the global loss, as `train/step.py` sums them."""
    context = replicas.current()
    with tf.GradientTape() as tape:
        outputs, report = layer(streams, valid, training=True)
        loss = tf.reduce_mean(outputs["image"] ** 2) + tf.reduce_mean(outputs["text"] ** 3)
        share = (loss + tf.add_n(list(report.losses.values()))) / context.count
    gradients = tape.gradient(share, [weight.value for weight in layer.trainable_weights])
    return report, context.sum(gradients)


def draw_inputs():
    random = np.random.default_rng(0)
    streams = {"image": random.normal(size=[8, 5, 7]), "text": random.normal(size=[8, 3, 7])}
    streams = {name: tf.constant(values, tf.float32) for name, values in streams.items()}
    return streams, {"image": None, "text": tf.constant(random.random([8, 3]) < 0.7)}


def make_layer(options):
    keras.utils.set_random_seed(0)
    layer = SparseFeedForward(6, num_experts=4, group_size=2, capacity_factor=0.8, **options)
    layer.build({"image": (None, None, 7)})
    return layer


def second_step_on_replicas(count, options):
    """What each replica reports and learns of its share, in the second step."""
    strategy = tiny.strategy_of(count)
    with strategy.scope():
        layer = make_layer(options)

    def share_of(context):
        number, size = context.replica_id_in_sync_group, 8 // count
        rows = slice(number * size, (number + 1) * size)
        return tf.nest.map_structure(lambda x: None if x is None else x[rows], draw_inputs())

    shares = strategy.experimental_distribute_values_from_function(share_of)
    run = tf.function(lambda shares: strategy.run(lambda s: take_step(layer, *s), args=(shares,)))
    run(shares)
    results = map(strategy.experimental_local_results, tf.nest.flatten(run(shares)))
    return list(zip(*results, strict=True))


@pytest.mark.parametrize(
    "count, options",
    [
        (2, dict(dispatch_order="random", routers="per_modality")),
        (4, dict(num_choices=2)),
    ],
)
def test_many_replicas_report_and_learn_what_one_does_noise_included(count, options):
    layer = make_layer(options)
    first, second = (take_step(layer, *draw_inputs()) for _ in range(2))
    assert second[0].metrics["success_rate_image"] < 1
    assert second[0].losses["load"] != first[0].losses["load"]
    for replica in second_step_on_replicas(count, options):
        for value, wanted in zip(replica, tf.nest.flatten(second), strict=True):
            scale = max(0.1, np.abs(wanted).max())
            np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-5 * scale)
