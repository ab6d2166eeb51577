"""The sparse layer as a layer of Keras: a tensor in, a tensor out."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.moe.sparse import SparseFeedForward
from limoe_tf.moe.sparse_values import PLAIN_LOSS_WEIGHTS
from limoe_tf.objectives.total import DEFAULT_WEIGHTS

B, N, D, F, E = 6, 5, 7, 11, 4
INPUTS = np.random.default_rng(0).normal(size=(B, N, D)).astype("float32")
FLAGS = np.arange(N) < np.array([[1], [2], [3], [4], [5], [5]])


def make(**options):
    values = dict(num_experts=E, num_choices=2, router_noise=0.0, same_expert_init=False)
    return SparseFeedForward(F, **{**values, **options})


def test_a_plain_tensor_is_the_one_stream_to_the_bit():
    layer = make(modalities=["text"], capacity_factor=0.5, group_size=2)
    for valid in (None, tf.constant(FLAGS)):
        for training in (False, True):
            streams, report = layer({"text": INPUTS}, {"text": valid}, training=training)
            plain = layer(INPUTS, valid, training=training)
            np.testing.assert_array_equal(plain, streams["text"])
            losses = [PLAIN_LOSS_WEIGHTS[n] * report.losses[n] for n in ("importance", "z")]
            assert {float(loss) for loss in losses} < {float(loss) for loss in layer.losses}


def test_its_losses_have_the_default_weights_unless_others_are_named():
    assert PLAIN_LOSS_WEIGHTS.items() < DEFAULT_WEIGHTS.items()
    counts = []
    for weights in (None, {}, {"local_entropy_tokens": 0.5, "global_entropy_tokens": 0.5}):
        layer = make(loss_weights=weights)
        layer(INPUTS)
        counts.append(len(layer.losses))
        streams = make(loss_weights=weights)
        streams({"image": INPUTS})  # whose Report is for the caller
        assert not streams.losses
    assert counts == [3, 0, 2]


def test_a_stream_of_its_own_name_has_its_own_threshold():
    layer = make(min_experts={"image": 2, "text": 3})
    assert layer.min_experts == {"image": 2, "text": 3, "tokens": 0.62 * E}
    assert make(modalities=["audio"]).min_experts == {"audio": 0.62 * E}
    assert SparseFeedForward.from_config(layer.get_config()).min_experts == layer.min_experts


def test_a_mask_of_keras_is_read_and_handed_on():
    layer, masking = make(), keras.layers.Masking()
    masked = np.where(FLAGS[..., np.newaxis], INPUTS, 0).astype("float32")
    found = layer(masking(masked))
    np.testing.assert_array_equal(found, layer(masked, tf.constant(FLAGS)))
    assert not found.numpy()[~FLAGS].any() and found.numpy()[FLAGS].any(axis=-1).all()
    np.testing.assert_array_equal(keras.src.backend.get_keras_mask(found), FLAGS)


def test_functional_models_train_and_both_they_and_sequential_ones_load(tmp_path):
    inputs = keras.Input((None, D))  # neither batch nor length is known
    functional = keras.Model(inputs, inputs + make(name="sparse")(inputs))
    sequential = keras.Sequential([keras.Input((N, D)), make(), keras.layers.Dense(D)])
    functional.compile("adam", "mse", jit_compile=False)
    history = functional.fit(INPUTS, INPUTS[:, ::-1], batch_size=B, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    for number, model in enumerate((functional, sequential)):
        model.save(path := tmp_path / f"{number}.keras")
        loaded = keras.models.load_model(path)
        assert loaded.output_shape == model.output_shape
        np.testing.assert_allclose(loaded(INPUTS), model(INPUTS), atol=1e-5)


def test_largest_gate_gives_slots_by_the_first_choice_alone():
    orders = ("batch_priority", "largest_gate")
    layers = [make(dispatch_order=order, capacity_factor=0.5) for order in orders]
    for layer in layers:
        layer.build(INPUTS.shape)
    layers[1].set_weights(layers[0].get_weights())
    by_sum, by_largest = (layer(INPUTS, training=True).numpy() for layer in layers)
    assert (by_sum != by_largest).any() and np.isfinite(by_largest).all()
    for layer in layers:  # With one choice the two are the same rule.
        layer.num_choices = 1
    np.testing.assert_array_equal(*(layer(INPUTS, training=True) for layer in layers))


def test_several_routers_want_their_streams_by_name():
    with pytest.raises(ValueError, match=r"a dict by modality .*modalities=\('image', 'text'\)"):
        make(routers="per_modality")(INPUTS)
    assert make(routers="per_modality", modalities=["text"])(INPUTS).shape == INPUTS.shape


def test_a_loss_of_another_stream_is_refused():
    with pytest.raises(ValueError, match="`loss_weights` must be one of .*Received"):
        make(modalities=["text"], loss_weights={"local_entropy_tokens": 1.0})


def test_a_metric_that_is_none_is_refused():
    with pytest.raises(TypeError, match="`routing_metrics` must be metrics of Keras. .*'accuracy'"):
        make(routing_metrics=["accuracy"])
