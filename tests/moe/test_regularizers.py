"""The regularizers: each value that of its pure function, whatever Keras divides by."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf import regularizers
from limoe_tf.moe import balance
from limoe_tf.moe.router import Router
from limoe_tf.moe.sparse import SparseFeedForward

B, N, D, E = 3, 5, 7, 4
ALL = {
    "local": regularizers.LocalEntropy(0.5),
    "local of two": regularizers.LocalEntropy(0.5, num_choices=2),
    "global": regularizers.GlobalEntropy(0.5, min_experts=E),
    "importance": regularizers.Importance(0.5),
    "importance by group": regularizers.Importance(0.5, by_group=True),
    "z": regularizers.ZLoss(0.5),
    "mutual": regularizers.MutualInformation(0.5, lengths=(2, 3)),
}


def draw(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype("float32")


def expected(logits):
    """Each value, without its weight, by the functions of `balance`, of logits [B, N, E]."""
    gates = tf.nn.softmax(logits)
    marginal = tf.reduce_mean(gates, axis=[0, 1])
    parts = [tf.reduce_mean(part, axis=[0, 1]) for part in (gates[:, :2], gates[:, 2:])]
    unevenness = balance.squared_coefficient_of_variation
    return {
        "local": tf.reduce_mean(balance.entropy(gates)),
        "local of two": tf.reduce_mean(balance.merged_entropy(gates, num_choices=2)),
        "global": balance.thresholded_global_entropy(marginal, min_experts=E),
        "importance": unevenness(tf.reduce_sum(gates, axis=[0, 1])),
        "importance by group": unevenness(tf.reduce_sum(gates, axis=1)),
        "z": tf.reduce_mean(balance.squared_log_partition(logits)),
        "mutual": balance.negative_mutual_information(parts),
    }


@pytest.mark.parametrize("name", ALL)
def test_the_loss_of_a_layer_of_gates_is_the_weight_times_the_value(name):
    inputs = draw(B, N, D)
    activation = None if name == "z" else "softmax"
    layer = keras.layers.Dense(E, activation=activation, activity_regularizer=ALL[name])
    layer(inputs)
    value = expected(inputs @ layer.kernel.numpy())[name]
    assert abs(float(value)) > 1e-3
    np.testing.assert_allclose(layer.losses, [0.5 * value], rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_the_loss_of_a_router_is_of_what_it_computes_without_noise(name):
    router = Router(E, noise=9.0, activity_regularizer=ALL[name])
    gates = router(draw(B, N, D), training=True)
    assert np.abs(gates.noisy_logits - gates.logits).max() > 1
    np.testing.assert_allclose(router.losses, [0.5 * expected(gates.logits)[name]], rtol=1e-5)


def test_a_regularizer_of_keras_sees_the_gates_of_a_router():
    router = Router(E, activity_regularizer="l2")  # 0.01 times the sum of squares
    gates = router(draw(B, N, D))
    square = tf.reduce_sum(tf.square(gates.clean_probabilities))
    np.testing.assert_allclose(router.losses, [0.01 * square / B], rtol=1e-5)


def test_a_sparse_layer_s_losses_are_the_same_where_nothing_is_padding():
    names = {"importance": "importance", "z": "z", "local_entropy_text": "local of two"}
    layer = SparseFeedForward(
        2, num_experts=E, num_choices=2, modalities=["text"], loss_weights=dict.fromkeys(names, 0.5)
    )
    inputs = draw(B, N, D)
    layer(inputs)
    values = expected(inputs @ layer.router.kernels[0].numpy())
    found = sorted(map(float, layer.losses))
    np.testing.assert_allclose(found, sorted(0.5 * values[n] for n in names.values()), rtol=1e-4)


def test_gates_of_two_axes_are_one_group():
    gates = tf.nn.softmax(draw(N, E))
    value = balance.squared_coefficient_of_variation(tf.reduce_sum(gates, axis=0))
    np.testing.assert_allclose(regularizers.Importance(1.0)(gates), N * value, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_configs_make_the_same_regularizers_again(name):
    config = keras.saving.serialize_keras_object(ALL[name])
    assert config["registered_name"].startswith("limoe_tf>")
    again = keras.regularizers.get(config)
    assert type(again) is type(ALL[name]) and again.get_config() == ALL[name].get_config()
    router = Router.from_config(Router(E, activity_regularizer=again).get_config())
    assert router.gates_regularizer.get_config() == again.get_config()


def test_a_batch_of_another_size_and_bfloat16_have_their_own_values():
    layer = keras.layers.Dense(
        E, "softmax", activity_regularizer=ALL["local"], dtype="mixed_bfloat16"
    )
    inputs = keras.Input((D,))
    model = keras.Model(inputs, layer(inputs))
    call = tf.function(lambda x: (model(x), model.losses), reduce_retracing=True)
    for size in (2, 6):
        gates, (loss,) = call(draw(size, D))
        assert gates.dtype == tf.bfloat16 and loss.dtype == tf.float32
        value = tf.reduce_mean(balance.entropy(tf.cast(gates, tf.float32)))
        np.testing.assert_allclose(loss, 0.5 * value, rtol=1e-4)


@pytest.mark.parametrize(
    "make, gates, error, message",
    [
        (lambda: regularizers.LocalEntropy(-1), None, ValueError, "`weight` must be at least 0"),
        (lambda: regularizers.LocalEntropy("1"), None, TypeError, "`weight` must be a number"),
        (lambda: regularizers.GlobalEntropy(min_experts=0.5), None, ValueError, "at least 1"),
        (lambda: regularizers.GlobalEntropy(min_experts=E + 1), (N, E), ValueError, "1 and 4"),
        (lambda: regularizers.MutualInformation(lengths=(3,)), None, ValueError, "two modalities"),
        (
            lambda: regularizers.MutualInformation(lengths=(3, 3)), (B, N, E), ValueError,
            r"`lengths` must sum to the tokens .*lengths=\(3, 3\) for shape=\(3, 5, 4\)",
        ),
        (lambda: regularizers.ZLoss(), (E,), ValueError, r"\(batch, ..., experts\).*shape=\(4,\)"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_are_refused(make, gates, error, message):
    with pytest.raises(error, match=message):
        make()(draw(*gates))
