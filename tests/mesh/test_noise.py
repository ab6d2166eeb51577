"""The routing's random numbers: the hash by NumPy, their distribution, the same everywhere."""

import math

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh import noise
from tests.shared import tiny

SHAPE = [3, 50, 7]
N = math.prod(SHAPE)


def uniform(seed, shape=SHAPE):
    return np.asarray(noise.uniform(shape, tf.constant(seed)))


def scrambled(bits):
    bits = bits.astype(np.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        bits ^= bits >> np.uint32(shift)
        bits *= np.uint32(factor)
    return bits ^ (bits >> np.uint32(16))


def correlation(x, y):
    return np.corrcoef(np.ravel(x), np.ravel(y))[0, 1]


def test_the_numbers_are_a_hash_of_seed_draw_and_place():
    keys = scrambled(np.uint32([11, 5]) + np.uint32([0x9E3779B9, 0x85EBCA6B]))
    place = np.arange(N, dtype=np.uint32).reshape(SHAPE)
    bits = scrambled(scrambled(place + keys[0]) + keys[1])
    expected = ((bits >> np.uint32(9)) + 0.5) / 2**23
    np.testing.assert_array_equal(uniform([11, 5]), expected)


def test_a_token_has_its_number_whatever_the_size_of_the_batch():
    np.testing.assert_array_equal(uniform([1, 2], [2, 50, 7]), uniform([1, 2])[:2])


@pytest.mark.parametrize("seed", [[0, 0], [0, 1], [1, 0], [123456789, 2**31 - 1]])
def test_uniform_numbers_fill_the_unit_interval_evenly(seed):
    values = uniform(seed, [4, 100, 50])
    count = values.size
    assert 0 < values.min() < 1e-3 and 1 - 1e-3 < values.max() < 1
    # Kolmogorov-Smirnov: 1.95 / sqrt(n) is exceeded once in a thousand draws.
    steps = np.arange(1, count + 1) / count
    assert abs(np.sort(values.ravel()) - steps).max() < 1.95 / math.sqrt(count)
    assert len(np.unique(values)) > 0.99 * count


def test_normal_numbers_have_the_moments_of_the_normal_distribution():
    values = np.asarray(noise.normal([4, 100, 50], tf.constant([0, 0])))
    # Standard errors for n = 20,000: mean 0.007, variance 0.01, fourth moment 0.07.
    assert abs(values.mean()) < 0.03
    assert abs(values.var() - 1) < 0.04
    assert abs((values**4).mean() - 3) < 0.3
    assert np.isfinite(values).all()


def test_no_two_draws_seeds_tokens_or_experts_go_together():
    values = uniform([0, 0])
    others = [uniform([0, 1]), uniform([1, 0]), uniform([1, 1]), uniform([0, 2])]
    # The correlation of 1,050 independent pairs has a standard error of 0.031.
    for number, left in enumerate([values, *others]):
        for right in others[number:]:
            assert abs(correlation(left, right)) < 0.13
    assert abs(correlation(values[:, 1:], values[:, :-1])) < 0.13
    assert abs(correlation(values[..., 1:], values[..., :-1])) < 0.13
    assert abs(correlation(values[1:], values[:-1])) < 0.13


def unscrambled(bits):
    """The inverse of `scrambled`, of one integer."""
    bits ^= bits >> 16
    bits = bits * pow(0x846CA68B, -1, 2**32) % 2**32
    bits ^= bits >> 15 ^ bits >> 30
    bits = bits * pow(0x7FEB352D, -1, 2**32) % 2**32
    return bits ^ bits >> 16


@pytest.mark.parametrize("bits", [0, 2**32 - 1])
def test_the_ends_of_the_hash_give_finite_normal_numbers(bits):
    # The draw whose hash at place 0 is `bits`, for seed 0: the hash run backwards.
    key = int(scrambled(scrambled(np.uint32([0x9E3779B9])))[0])
    draw = (unscrambled((unscrambled(bits) - key) % 2**32) - 0x85EBCA6B) % 2**32
    seed = np.int32([0, draw - 2**32 if draw >= 2**31 else draw])
    value = float(uniform(seed, [1, 1, 1])[0, 0, 0])
    assert value == (2.0**-24 if bits == 0 else 1 - 2.0**-24)
    assert np.isfinite(noise.normal([1, 1, 1], tf.constant(seed)))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_and_xla_draw_what_eager_draws(jit_compile):
    seed = tf.constant([3, 8])

    @tf.function(jit_compile=jit_compile)
    def draw(seed):
        return noise.uniform(SHAPE, seed), noise.normal(SHAPE, seed)

    values, normals = draw(seed)
    np.testing.assert_array_equal(values, uniform([3, 8]))
    np.testing.assert_allclose(normals, noise.normal(SHAPE, seed), rtol=1e-5, atol=1e-5)


def test_a_batch_of_unknown_size_has_the_same_numbers():
    @tf.function
    def draw(seed, groups):
        return noise.uniform([groups, *SHAPE[1:]], seed)

    np.testing.assert_array_equal(draw(tf.constant([3, 8]), tf.constant(3)), uniform([3, 8]))


def test_replicas_draw_the_numbers_of_their_place_in_the_global_batch():
    strategy = tiny.strategy_of(3)
    parts = strategy.run(lambda: noise.uniform([1, 50, 7], tf.constant([3, 8])))
    joined = np.concatenate(strategy.experimental_local_results(parts))
    np.testing.assert_array_equal(joined, uniform([3, 8]))
