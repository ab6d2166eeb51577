"""The losses at masked places: by hand, by NumPy, and over several replicas."""

import math

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.objectives.masked import masked_classes, masked_values
from tests.shared import tiny

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 3, 7)).astype("float32")
TARGETS = RNG.integers(0, 7, [6, 3]).astype("int32")
# One, two or three present places each: of the first half four, of the second nine.
PRESENT = np.arange(3) < np.array([[1], [2], [1], [3], [3], [3]])


def test_two_places_by_hand():
    # Logits [log 3, 0] are a softmax of [3/4, 1/4]: the classes cost log(4/3) and log 4.
    logits, targets = tf.math.log([[[3.0, 1.0], [3.0, 1.0]]]), tf.constant([[0, 1]])
    found = masked_classes(logits, targets)
    np.testing.assert_allclose(found.loss, (math.log(4 / 3) + math.log(4)) / 2, rtol=1e-6)
    assert float(found.accuracy) == 0.5
    alone = masked_classes(logits, targets, tf.constant([[False, True]]))
    np.testing.assert_allclose(alone.loss, math.log(4), rtol=1e-6)
    assert float(alone.accuracy) == 0.0


def numpy_route(present):
    """The mean over present places, written out place by place."""
    losses, hits = [], []
    for logits, target in zip(np.float64(LOGITS)[present], TARGETS[present]):
        losses.append(-np.log(np.exp(logits[target]) / np.exp(logits).sum()))
        hits.append(np.argmax(logits) == target)
    return np.mean(losses), np.mean(hits)


@pytest.mark.parametrize("present", [None, PRESENT])
def test_each_present_place_weighs_alike(present):
    found = masked_classes(tf.constant(LOGITS), tf.constant(TARGETS), present)
    loss, accuracy = numpy_route(np.ones([6, 3], bool) if present is None else present)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(found.accuracy, accuracy, rtol=1e-6)
    assert found.loss.dtype == found.accuracy.dtype == tf.float32


@pytest.mark.parametrize("present", [None, PRESENT])
def test_features_cost_their_mean_square(present):
    wanted = RNG.normal(size=LOGITS.shape).astype("float32")
    found = masked_values(tf.constant(LOGITS), tf.constant(wanted), present)
    squares = ((np.float64(LOGITS) - wanted) ** 2).mean(axis=-1)
    squares = squares if present is None else squares[present]
    np.testing.assert_allclose(found.loss, squares.mean(), rtol=1e-5)
    assert found.accuracy is None


def test_what_is_not_present_has_no_gradient_and_nothing_costs_nothing():
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = masked_classes(logits, tf.constant(TARGETS), PRESENT).loss
    moved = np.abs(tape.gradient(loss, logits)).max(axis=-1) > 0
    np.testing.assert_array_equal(moved, PRESENT)
    nothing = masked_classes(logits, tf.constant(TARGETS), np.zeros_like(PRESENT))
    assert float(nothing.loss) == float(nothing.accuracy) == 0


def test_half_precision_is_summed_in_float32():
    logits = tf.cast(LOGITS, tf.bfloat16)
    found = masked_classes(logits, tf.constant(TARGETS))
    expected = masked_classes(tf.cast(logits, tf.float32), tf.constant(TARGETS))
    assert found.loss.dtype == tf.float32 and float(found.loss) == float(expected.loss)
    assert masked_values(logits, tf.constant(LOGITS)).loss.dtype == tf.float32


def share_of_the_loss(logits, targets, present):
    """The means over replicas of loss and accuracy, and this replica's part of the gradient."""
    context = replicas.of_strategy()
    with replicas.scope(context), tf.GradientTape() as tape:
        tape.watch(logits)
        found = masked_classes(logits, targets, present)
        share = found.loss / context.count
    means = context.mean(tf.stack([found.loss, found.accuracy]))
    return means, tape.gradient(share, logits)


@pytest.mark.parametrize("examples", [6, 5, 1])
def test_replicas_with_other_numbers_of_places_have_the_mean_over_all(examples):
    # Batches of 6 over 2 replicas: of one example the second replica gets none.
    values = [value[:examples] for value in (LOGITS, TARGETS, PRESENT)]
    expected, gradient = share_of_the_loss(*map(tf.constant, values))
    rest = np.zeros([6 - examples, 3], bool)
    places = np.concatenate([PRESENT[:examples], rest])
    np.testing.assert_allclose(expected, numpy_route(places), rtol=1e-5)
    strategy = tiny.strategy_of(2)
    batches = tf.data.Dataset.from_tensor_slices(tuple(values)).batch(6)
    step = tf.function(lambda source: strategy.run(share_of_the_loss, next(source)))
    answers = step(iter(strategy.experimental_distribute_dataset(batches)))
    answers = strategy.experimental_local_results(answers)
    assert [len(part) for _, part in answers] == [examples - examples // 2, examples // 2]
    for means, _ in answers:
        np.testing.assert_allclose(means, expected, rtol=1e-5)
    found = np.concatenate([part for _, part in answers])
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-6)
