"""Sums, means and gathers span all replicas, and gradients find the way back."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh import replicas
from tests.shared import tiny

COUNTS = [1, 2, 4]
ROWS, WIDTH = 3, 5


def on_each_replica(num_replicas, function, *wholes):
    """Calls `function` in a graph on each replica's share of the rows; lists their answers."""
    strategy = tiny.strategy_of(num_replicas)

    def share(whole):
        parts = np.split(np.asarray(whole), num_replicas)
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group])
        )

    shares = [share(whole) for whole in wholes] if num_replicas > 1 else list(wholes)
    answers = tf.function(lambda *args: strategy.run(function, args))(*shares)
    return strategy.experimental_local_results(answers) if num_replicas > 1 else [answers]


def draw(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype("float32")


@pytest.mark.parametrize("count", COUNTS)
def test_every_replica_learns_the_same_numbers_of_the_whole(count):
    whole = draw(count * ROWS, WIDTH)

    def ask(rows):
        context = replicas.current()
        here = tf.convert_to_tensor(context.index), tf.convert_to_tensor(context.count)
        gathered = context.gather(rows)
        assert gathered.shape == [count * ROWS, WIDTH]  # known while the graph is built
        return (*here, context.sum(rows), context.mean(tf.reduce_sum(rows)), gathered)

    parts = np.split(whole, count)
    for number, answer in enumerate(on_each_replica(count, ask, whole)):
        index, size, total, mean, gathered = (part.numpy() for part in answer)
        assert (index, size) == (number, count)
        np.testing.assert_allclose(total, np.sum(parts, axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(mean, np.sum(whole) / count, rtol=1e-5)
        np.testing.assert_array_equal(gathered, whole)


def global_loss(rows, weights):
    """The mean over replicas is a function of all rows: of their sum, mean and gathered order."""
    context = replicas.current()
    whole = context.gather(rows)
    per_row = tf.reduce_mean(tf.nn.softmax(tf.matmul(rows, whole, transpose_b=True)) ** 2)
    column = context.sum(tf.reduce_sum(rows, axis=0)) * context.mean(weights[0])
    return per_row + tf.reduce_mean(tf.sin(column))


def gradient_of_the_share(rows, weights):
    with tf.GradientTape() as tape:
        tape.watch([rows, weights])
        share = global_loss(rows, weights) / replicas.current().count
    return tape.gradient(share, [rows, weights])


@pytest.mark.parametrize("count", COUNTS[1:])
def test_shares_of_the_loss_give_the_gradient_of_the_global_loss(count):
    # One replica sees `weights` whose rows are the replicas' values: their mean is what it uses.
    rows, per_replica = draw(4 * ROWS, WIDTH), draw(count, WIDTH)

    with tf.GradientTape() as tape:
        whole, weights = tf.constant(rows), tf.constant(per_replica)
        tape.watch([whole, weights])
        loss = global_loss(whole, tf.reduce_mean(weights, axis=0, keepdims=True))
    expected = tape.gradient(loss, [whole, weights])

    answers = on_each_replica(count, gradient_of_the_share, rows, per_replica)
    for found, wanted in zip(zip(*answers), expected):
        joined = np.concatenate([np.asarray(part) for part in found])
        np.testing.assert_allclose(joined, wanted, rtol=1e-4, atol=1e-6)


def test_gradients_of_a_gather_find_their_rows_where_replicas_have_unequal_numbers_of_them():
    rows, factors = draw(5, WIDTH), draw(5, 1, WIDTH)[:, 0]
    strategy = tiny.strategy_of(2)

    def gradient(rows, factors):
        assert rows.shape == [None, WIDTH]
        context = replicas.current()
        with tf.GradientTape() as tape:
            tape.watch(rows)
            loss = tf.reduce_sum(context.gather(rows) * context.gather(factors))
        return tape.gradient(loss, rows)

    pairs = tf.data.Dataset.from_tensor_slices((rows, factors)).batch(5)
    batches = iter(strategy.experimental_distribute_dataset(pairs))
    answers = tf.function(lambda: strategy.run(gradient, next(batches)), autograph=False)()
    answers = [answer.numpy() for answer in strategy.experimental_local_results(answers)]
    assert [len(answer) for answer in answers] == [3, 2]
    # The replicas' losses are the same, and their gradients add up.
    np.testing.assert_allclose(np.concatenate(answers), 2 * factors, rtol=1e-6)


def test_outside_of_a_step_there_is_one_replica():
    with tiny.strategy_of(2).scope():
        context = replicas.current()
    assert (context.index, context.count) == (0, 1)
    value = tf.constant([3.0])
    assert context.sum(value) is value
    assert context.mean(value) is value
    assert context.gather(value) is value
