"""The contrastive loss: by hand, by NumPy, and over several replicas."""

import math

import numpy as np
import pytest
import tensorflow as tf

import tiny
from limoe_tf.mesh import replicas
from limoe_tf.objectives.contrastive import contrastive


def draw(*shape):
    vectors = np.random.default_rng(shape).normal(size=shape).astype("float32")
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_two_pairs_by_hand():
    # Both images are (1, 0); the texts are (1, 0) and (0, 1); the scale is log 3. The logits of
    # both images are [log 3, 0], a softmax of [3/4, 1/4]: finding their texts costs log(4/3) and
    # log 4. Each text has equal logits with both images: finding its image costs log 2, twice.
    # That is (log(4/3) + log 2) / 2 for the first pair, (log 4 + log 2) / 2 for the second, and
    # (log(4/3) + log 4 + 2 log 2) / 4 in the mean. Only the first image's own text is nearest.
    images = tf.constant([[1.0, 0.0], [1.0, 0.0]])
    texts = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    answer = contrastive(images, texts, tf.math.log(3.0))
    expected = (math.log(4 / 3) + math.log(4) + 2 * math.log(2)) / 4
    np.testing.assert_allclose(answer.loss, expected, rtol=1e-6)
    assert float(answer.accuracy) == 0.5


def numpy_route(images, texts, scale):
    """Equation 1 of the paper, written out pair by pair."""
    pairs, losses = len(images), []
    for j in range(pairs):
        to_texts = np.exp([scale * images[j] @ texts[k] for k in range(pairs)])
        to_images = np.exp([scale * images[k] @ texts[j] for k in range(pairs)])
        own = np.exp(scale * images[j] @ texts[j])
        losses.append(-0.5 * np.log(own / to_texts.sum()) - 0.5 * np.log(own / to_images.sum()))
    nearest = [np.argmax(images[j] @ texts.T) for j in range(pairs)]
    return np.mean(losses), np.mean(np.equal(nearest, np.arange(pairs)))


@pytest.mark.parametrize("pairs, size, scale", [(2, 3, 10.0), (7, 5, 1.0), (13, 2, 30.0)])
def test_it_is_equation_1_of_the_paper(pairs, size, scale):
    images, texts = draw(pairs, size), draw(pairs, size)[::-1].copy()
    loss, accuracy = numpy_route(images.astype("float64"), texts.astype("float64"), scale)
    answer = contrastive(tf.constant(images), tf.constant(texts), tf.constant(scale))
    np.testing.assert_allclose(answer.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(answer.accuracy, accuracy)
    assert answer.loss.dtype == answer.accuracy.dtype == tf.float32


def test_a_lone_pair_costs_nothing_and_equal_embeddings_cost_log_of_the_pairs():
    lone = contrastive(draw(1, 3), draw(1, 3), tf.constant(10.0))
    assert (float(lone.loss), float(lone.accuracy)) == (0.0, 1.0)
    same = tf.tile(draw(1, 3), [8, 1])
    np.testing.assert_allclose(contrastive(same, same, tf.constant(10.0)).loss, math.log(8), 1e-5)


def share_of_the_loss(images, texts, scale):
    """The global numbers, and the gradients of this replica's share of the loss."""
    everyone = replicas.current()
    with tf.GradientTape() as tape:
        tape.watch([images, texts, scale])
        answer = contrastive(images, texts, scale)
        share = answer.loss / everyone.count
    to_images, to_texts, to_scale = tape.gradient(share, [images, texts, scale])
    numbers = [everyone.mean(answer.loss), everyone.mean(answer.accuracy), everyone.sum(to_scale)]
    return tf.stack(numbers), to_images, to_texts


@pytest.mark.parametrize("count", [2, 4])
def test_several_replicas_have_the_loss_and_the_gradient_of_one(count):
    images, texts, scale = draw(8, 3), draw(8, 3)[::-1].copy(), tf.constant(7.0)
    expected = share_of_the_loss(tf.constant(images), tf.constant(texts), scale)
    strategy = tiny.strategy_of(count)

    def share(whole):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(np.split(whole, count)[context.replica_id_in_sync_group])
        )

    step = tf.function(lambda *args: strategy.run(share_of_the_loss, (*args, scale)))
    answers = strategy.experimental_local_results(step(share(images), share(texts)))
    for numbers, _, _ in answers:
        np.testing.assert_allclose(numbers, expected[0], rtol=1e-5)
    for part in (1, 2):
        found = np.concatenate([answer[part] for answer in answers])
        np.testing.assert_allclose(found, expected[part], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("pairs", [3, 1])
def test_a_last_batch_that_does_not_fill_all_replicas_has_the_loss_of_one(pairs):
    # Batches of 4 over 2 replicas: of 3 pairs one replica gets 2, of 1 pair one gets none.
    images, texts, scale = draw(pairs, 3), draw(pairs, 3)[::-1].copy(), tf.constant(7.0)
    strategy = tiny.strategy_of(2)
    batches = tf.data.Dataset.from_tensor_slices((images, texts)).batch(4)
    step = tf.function(lambda source: strategy.run(share_of_the_loss, (*next(source), scale)))
    answers = step(iter(strategy.experimental_distribute_dataset(batches)))
    answers = strategy.experimental_local_results(answers)
    assert [len(to_images) for _, to_images, _ in answers] == [pairs - pairs // 2, pairs // 2]
    expected = share_of_the_loss(tf.constant(images), tf.constant(texts), scale)
    for numbers, _, _ in answers:
        np.testing.assert_allclose(numbers, expected[0], rtol=1e-5, atol=1e-6)
    for part in (1, 2):
        found = np.concatenate([answer[part] for answer in answers])
        np.testing.assert_allclose(found, expected[part], rtol=1e-4, atol=1e-6)
