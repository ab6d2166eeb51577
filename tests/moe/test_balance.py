"""The auxiliary losses: numbers by hand, NumPy formulas, bounds, and where the gradient is zero."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.moe import balance

G, S, E = 3, 11, 7
LOG = math.log


def draw_logits(seed=0, scale=2.0):
    values = np.random.default_rng(seed).normal(size=[G, S, E])
    return tf.constant(scale * values, tf.float32)


def draw_gates(seed=0):
    return tf.nn.softmax(draw_logits(seed))


def draw_valid(seed=0):
    return tf.constant(np.random.default_rng([seed, 1]).random([G, S]) < 0.7)


def one_hot_marginal(index=0, size=8):
    return tf.one_hot(index, size)


def uniform_marginal(experts, size=8):
    return tf.constant([1 / experts] * experts + [0.0] * (size - experts))


def squared_variation(mass):
    return np.mean((mass.std(axis=-1) / mass.mean(axis=-1)) ** 2)


def test_importance_of_a_group_by_hand():
    # Masses 0.9 + 0.5 = 1.4 and 0.1 + 0.5 = 0.6; mean 1, std 0.4. The third token is padding.
    gates = tf.constant([[[0.9, 0.1], [0.5, 0.5], [0.0, 1.0]]])
    mass = balance.importance(gates, tf.constant([[True, True, False]]))
    np.testing.assert_allclose(mass, [[1.4, 0.6]], rtol=1e-6)
    np.testing.assert_allclose(balance.squared_coefficient_of_variation(mass), 0.16, rtol=1e-5)


@pytest.mark.parametrize("num_experts, expected", [(8, 0.03987), (32, 0.17658)])
def test_importance_hardly_sees_all_text_on_one_expert(num_experts, expected):
    # B/16: 196 image tokens spread evenly, 16 text tokens on one expert. Of the mass n_i + n_t, all
    # experts share n_i; the squared variation is (E - 1) (n_t / (n_i + n_t))^2.
    images = np.full([1, 196, num_experts], 1 / num_experts)
    texts = np.eye(num_experts)[np.zeros([1, 16], int)]
    gates = tf.constant(np.concatenate([images, texts], axis=1), tf.float32)
    loss = balance.squared_coefficient_of_variation(
        balance.importance(gates, tf.ones(gates.shape[:2], tf.bool))
    )
    np.testing.assert_allclose(loss, (num_experts - 1) * (16 / 212) ** 2, rtol=1e-4)
    np.testing.assert_allclose(loss, expected, atol=5e-6)


def test_importance_is_the_mean_over_groups_of_the_squared_variation():
    gates, valid = draw_gates(), draw_valid()
    mass = (gates.numpy() * valid.numpy()[..., None]).sum(axis=1)
    loss = balance.squared_coefficient_of_variation(balance.importance(gates, valid))
    np.testing.assert_allclose(loss, squared_variation(mass), rtol=1e-5)


@pytest.mark.parametrize("num_choices", [1, 2, 3])
def test_load_is_the_variation_of_chances_to_be_chosen(num_choices):
    logits, valid, std = draw_logits(scale=0.3), draw_valid(), 1 / E
    noisy = logits + std * draw_logits(seed=1, scale=1.0)
    mass = np.zeros([G, E])
    for g, s in zip(*np.nonzero(valid)):
        threshold = sorted(noisy[g, s].numpy())[-num_choices]
        for e in range(E):
            mass[g, e] += 1 - NormalDist().cdf((threshold - float(logits[g, s, e])) / std)
    loss = balance.squared_coefficient_of_variation(
        balance.load(logits, noisy, valid, num_choices=num_choices, noise_std=std)
    )
    np.testing.assert_allclose(loss, squared_variation(mass), rtol=1e-4)


def test_load_of_one_token_by_hand():
    # Threshold 1, clean logits 1 and 0, noise of std 1: chances 1/2 and 1 - Phi(1) = 0.158655.
    # Mean 0.329328, std 0.170672: (0.170672 / 0.329328)^2 = 0.268577.
    logits = tf.constant([[[1.0, 0.0]]])
    loss = balance.squared_coefficient_of_variation(
        balance.load(logits, logits, tf.constant([[True]]), num_choices=1, noise_std=1.0)
    )
    np.testing.assert_allclose(loss, 0.268577, rtol=1e-5)


def test_squared_log_partition_by_hand():
    # log(e^0 + e^0) = log 2; log(2 + 6) = log 8; shifting the logits by 100 shifts the log by 100.
    logits = tf.constant([[0.0, 0.0], [LOG(2), LOG(6)], [100.0, 100.0]])
    expected = [LOG(2) ** 2, LOG(8) ** 2, (100 + LOG(2)) ** 2]
    np.testing.assert_allclose(balance.squared_log_partition(logits), expected, rtol=1e-5)


def test_entropy_is_that_of_the_formula_and_its_gradient_is_finite_at_zero():
    gates = draw_gates()
    expected = -(gates.numpy() * np.log(gates.numpy())).sum(axis=-1)
    np.testing.assert_allclose(balance.entropy(gates), expected, rtol=1e-5)
    corner = one_hot_marginal()
    with tf.GradientTape() as tape:
        tape.watch(corner)
        value = balance.entropy(corner)
    assert value == 0
    assert np.isfinite(tape.gradient(value, corner)).all()


def test_merged_entropy_by_hand():
    # The two largest of 1/2, 1/8, 1/4, 1/8 make 3/4: H(3/4, 1/8, 1/8) = 1.061278 bits.
    gates = tf.constant([0.5, 0.125, 0.25, 0.125])
    expected = (0.75 * LOG(4 / 3) + 0.25 * LOG(8)) / LOG(2)
    assert round(expected, 6) == 1.061278
    result = balance.merged_entropy(gates, num_choices=2) / LOG(2)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_merged_entropy_of_one_choice_is_the_entropy():
    gates = draw_gates()
    merged = balance.merged_entropy(gates, num_choices=1)
    np.testing.assert_array_equal(merged, balance.entropy(gates))


@pytest.mark.parametrize("num_choices", [1, 2, 3])
def test_merged_entropy_is_zero_once_any_k_experts_have_all_the_mass(num_choices):
    masses = np.random.default_rng(0).dirichlet(np.ones(num_choices))
    for seed in range(5):
        experts = np.random.default_rng(seed).permutation(E)[:num_choices]
        gates = np.zeros(E, "float32")
        gates[experts] = masses
        merged = balance.merged_entropy(tf.constant(gates), num_choices=num_choices)
        np.testing.assert_allclose(merged, 0, atol=1e-6)
        if num_choices > 1:
            assert balance.merged_entropy(tf.constant(gates), num_choices=num_choices - 1) > 0.01


def test_entropies_stay_within_their_bounds():
    for seed in range(10):
        gates = draw_gates(seed)
        local = tf.reduce_mean(balance.entropy(gates))
        negative_global = -balance.entropy(tf.reduce_mean(gates, axis=[0, 1]))
        assert 0 <= local <= LOG(E)
        assert -LOG(E) <= negative_global <= 0
        # Jensen: minus the mutual information of experts and tokens.
        assert local + negative_global < 0


def test_local_and_global_entropy_cancel_where_all_tokens_agree():
    row = draw_gates()[0, 0]
    gates = tf.broadcast_to(row, [G, S, E])
    local = tf.reduce_mean(balance.entropy(gates))
    both = local - balance.entropy(tf.reduce_mean(gates, axis=[0, 1]))
    np.testing.assert_allclose(both, 0, atol=1e-6)


def global_entropy_and_gradient(logits, min_experts):
    logits = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = balance.thresholded_global_entropy(tf.nn.softmax(logits), min_experts=min_experts)
    return float(loss), tape.gradient(loss, logits).numpy()


@pytest.mark.parametrize("experts", [2, 3, 5, 8])
def test_global_entropy_loss_wants_as_many_experts_as_its_threshold(experts):
    enough = balance.thresholded_global_entropy(uniform_marginal(experts), min_experts=experts)
    np.testing.assert_allclose(enough, 0, atol=1e-6)
    collapsed = balance.thresholded_global_entropy(one_hot_marginal(), min_experts=experts)
    np.testing.assert_allclose(collapsed, LOG(experts), rtol=1e-6)


def test_global_entropy_loss_has_no_gradient_once_it_is_met():
    logits = [1.0, 0.5, 0.0, 0.0]  # uses about 3.6 experts: exp of its entropy
    loss, gradient = global_entropy_and_gradient(logits, min_experts=3)
    assert loss == 0 and not gradient.any()
    loss, gradient = global_entropy_and_gradient(logits, min_experts=4)
    assert loss > 0 and gradient[0] > 0 > gradient[3]  # the most used expert should get less


def test_a_threshold_may_be_any_number_from_one():
    loss, _ = global_entropy_and_gradient([9.0, 0.0], min_experts=1)
    assert loss == 0
    collapsed = balance.thresholded_global_entropy(one_hot_marginal(), min_experts=2.5)
    np.testing.assert_allclose(collapsed, LOG(2.5), rtol=1e-6)


def test_mutual_information_of_equal_and_of_disjoint_modalities():
    gates = draw_gates()[0, 0]
    equal = balance.negative_mutual_information([gates, gates])
    np.testing.assert_allclose(equal, 0, atol=1e-6)
    apart = [uniform_marginal(3), tf.reverse(uniform_marginal(4), [0])]
    np.testing.assert_allclose(balance.negative_mutual_information(apart), -LOG(2), rtol=1e-6)
    three = [one_hot_marginal(index) for index in (0, 3, 5)]
    np.testing.assert_allclose(balance.negative_mutual_information(three), -LOG(3), rtol=1e-6)


def test_mutual_information_is_that_of_the_joint_distribution():
    for seed in range(5):
        marginals = [draw_gates(seed)[g, 0].numpy().astype("float64") for g in range(2)]
        # p(expert, modality) = p(expert | modality) / 2, and p(modality) = 1/2.
        joint = np.stack(marginals) / 2
        independent = joint.sum(axis=0) * joint.sum(axis=1, keepdims=True)
        expected = -(joint * np.log(joint / independent)).sum()
        marginals = [tf.constant(marginal, tf.float32) for marginal in marginals]
        result = balance.negative_mutual_information(marginals)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)
        assert -LOG(2) <= result <= 0


def test_padding_alone_gives_no_loss_and_no_infinite_gradient():
    logits, no_token = draw_logits(), tf.zeros([G, S], tf.bool)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = balance.squared_coefficient_of_variation(
            balance.importance(tf.nn.softmax(logits), no_token)
        )
        loss += balance.squared_coefficient_of_variation(
            balance.load(logits, logits, no_token, num_choices=1, noise_std=0.1)
        )
    assert loss == 0
    assert not tape.gradient(loss, logits).numpy().any()


def test_certain_gates_and_far_logits_give_finite_gradients():
    logits = tf.constant([[[200.0, -200.0, 0.0]], [[0.0, 90.0, -90.0]]])
    valid = tf.ones([2, 1], tf.bool)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        gates = tf.nn.softmax(logits)
        loss = balance.squared_coefficient_of_variation(balance.importance(gates, valid))
        loss += tf.reduce_sum(balance.entropy(gates))
        loss += balance.squared_coefficient_of_variation(
            balance.load(logits, logits, valid, num_choices=1, noise_std=0.1)
        )
        loss += tf.reduce_sum(balance.squared_log_partition(logits))
        loss += balance.thresholded_global_entropy(gates[0, 0], min_experts=3)
    assert np.isfinite(loss) and np.isfinite(tape.gradient(loss, logits)).all()
