"""The router's gates: softmax of a linear map, in float32, with noise in training alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.moe.router import Router
from limoe_tf.tokens import Layout

G, IMAGES, TEXTS, D, E = 2, 5, 3, 7, 4
LAYOUT = Layout(
    shapes={"image": (G, IMAGES), "text": (G, TEXTS)}, lengths={"image": IMAGES, "text": TEXTS}
)
TOKENS = tf.constant(np.random.default_rng(0).normal(size=[G, IMAGES + TEXTS, D]), tf.float32)


def make_router(**options):
    router = Router(E, **options)
    router.build((None, None, D))
    return router


def gates_of(router, training=False, tokens=TOKENS):
    return router(tokens, layout=LAYOUT, training=training)


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_gates_are_the_softmax_of_a_map_without_bias():
    router = make_router()
    gates = gates_of(router)
    logits = TOKENS.numpy() @ router.kernels[0].numpy()
    np.testing.assert_allclose(gates.logits, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gates.probabilities, softmax(logits), rtol=1e-4)
    assert [tuple(w.shape) for w in router.trainable_weights] == [(D, E)]


def test_one_router_per_modality_sees_its_own_tokens_alone():
    router = make_router(modalities=("image", "text"))
    kernels = {weight.name: weight.numpy() for weight in router.trainable_weights}
    assert sorted(kernels) == ["kernel_image", "kernel_text"]
    logits = gates_of(router).logits.numpy()
    for name, stretch in (("image", slice(0, IMAGES)), ("text", slice(IMAGES, None))):
        expected = TOKENS.numpy()[:, stretch] @ kernels[f"kernel_{name}"]
        np.testing.assert_allclose(logits[:, stretch], expected, rtol=1e-4, atol=1e-5)


def test_there_is_no_noise_at_inference_nor_where_it_is_set_to_zero():
    for router, training in ((make_router(), False), (make_router(noise=0), True)):
        gates = gates_of(router, training)
        assert gates.noisy_logits is gates.logits
        assert gates.probabilities is gates.clean_probabilities
        assert router.draws.numpy() == 0


@pytest.mark.parametrize("noise", [1.0, 3.0])
def test_training_noise_has_a_standard_deviation_of_noise_over_experts(noise):
    router = make_router(noise=noise)
    draws = []
    for _ in range(40):
        gates = gates_of(router, training=True)
        draws.append(gates.noisy_logits - gates.logits)
        np.testing.assert_allclose(
            gates.probabilities, softmax(gates.noisy_logits.numpy()), rtol=1e-4
        )
        np.testing.assert_allclose(
            gates.clean_probabilities, softmax(gates.logits.numpy()), rtol=1e-4
        )
    # 40 * 64 numbers: the estimate's standard error is 1.4 % of it.
    np.testing.assert_allclose(np.std(draws), noise / E, rtol=0.06)
    np.testing.assert_allclose(router.noise_std, noise / E)


def test_every_step_and_every_seed_draws_other_noise_and_a_restored_count_the_same():
    router, other = make_router(seed=1), make_router(seed=2)
    first = gates_of(router, training=True).noisy_logits.numpy()
    second = gates_of(router, training=True).noisy_logits.numpy()
    assert router.draws.numpy() == 2 and router.draws.trainable is False
    assert (first != second).all()
    other.kernels[0].assign(router.kernels[0])
    assert (gates_of(other, training=True).noisy_logits != first).numpy().all()
    router.draws.assign(1)
    np.testing.assert_array_equal(gates_of(router, training=True).noisy_logits, second)


def test_without_noise_the_load_loss_keeps_the_scale_of_noise_one():
    assert make_router(noise=0).noise_std == 1 / E


def test_routing_is_in_float32_under_bfloat16():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    rounded = tf.cast(TOKENS, tf.bfloat16)
    router = make_router()
    gates = gates_of(router, training=True, tokens=rounded)
    assert {value.dtype for value in gates} == {tf.float32}
    # The tokens are rounded to bfloat16, the map is not.
    exact = tf.cast(rounded, tf.float32).numpy() @ router.kernels[0].numpy()
    np.testing.assert_allclose(gates.logits, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modalities", [None, ("image", "text")])
def test_the_gates_that_weigh_tokens_have_a_gradient_to_every_kernel_and_token(modalities):
    router = make_router(modalities=modalities)
    kernels = [weight.value for weight in router.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(TOKENS)
        top = tf.reduce_sum(tf.reduce_max(gates_of(router, training=True).probabilities, axis=-1))
    *to_kernels, to_tokens = tape.gradient(top, [*kernels, TOKENS])
    for gradient in to_kernels:
        assert (gradient.numpy() != 0).all()
    assert (np.abs(to_tokens).max(axis=-1) > 0).all()


def test_a_router_is_rebuilt_from_its_config():
    router = make_router(noise=0.5, modalities=("image", "text"), seed=3)
    again = Router.from_config(router.get_config())
    assert again.get_config() == router.get_config()
    assert again.noise_std == router.noise_std


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(num_experts=0), ValueError, "`num_experts` must be at least 1. Received"),
        (dict(num_experts=2.0), TypeError, "`num_experts` must be an integer. Received"),
        (dict(noise=-1), ValueError, "`noise` must be at least 0. Received"),
        (dict(noise="1"), TypeError, "`noise` must be a number. Received"),
        (dict(seed=-1), ValueError, "`seed` must be at least 0. Received"),
    ],
)
def test_values_that_cannot_be_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        Router(**{"num_experts": E, **options})
