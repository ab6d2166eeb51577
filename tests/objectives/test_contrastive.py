"""The contrastive loss: by hand, by NumPy, and over several replicas."""

import math

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.objectives.contrastive import contrastive
from tests.shared import tiny


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


def test_equal_texts_are_positives_of_each_other():
    # The scale is log 3, images 1 and 2 are (1, 0), image 3 is (0, 1); texts 1 and 3 are equal and
    # (1, 0), text 2 is (0, 1). Logits of images over texts, and their softmax:
    #   images 1, 2: [log 3, 0, log 3] -> [3, 1, 3] / 7    image 3: [0, log 3, 0] -> [1, 3, 1] / 5
    # Images 1 and 3 match texts 1 or 3, half each: log(7/3) and log 5; image 2 text 2: log 7.
    # Logits of texts over images: 1, 3: [log 3, log 3, 0] -> [3, 3, 1] / 7; 2: [1, 1, 3] / 5.
    # Texts 1 and 3 match images 1 or 3: (log(7/3) + log 7) / 2 each; text 2 image 2: log 5.
    # The nearest texts: image 1 finds a positive, image 2 does not, image 3 finds text 2: 1/3.
    images = tf.constant([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    texts = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    tokens = tf.constant([[5, 7, 0], [5, 8, 0], [5, 7, 0]])
    answer = contrastive(images, texts, tf.math.log(3.0), tokens=tokens)
    of_images = math.log(7 / 3) + math.log(7) + math.log(5)
    of_texts = math.log(7 / 3) + math.log(7) + math.log(5)
    np.testing.assert_allclose(answer.loss, (of_images + of_texts) / 6, rtol=1e-6)
    np.testing.assert_allclose(answer.accuracy, 1 / 3, rtol=1e-6)


def test_an_equal_text_that_is_nearer_than_the_own_one_is_right():
    images, texts = tf.constant([[1.0, 0.0], [0.0, 1.0]]), tf.constant([[0.0, 1.0], [1.0, 0.0]])
    scale = tf.constant(5.0)
    assert float(contrastive(images, texts, scale, tokens=[[3], [3]]).accuracy) == 1.0
    assert float(contrastive(images, texts, scale, tokens=[[3], [4]]).accuracy) == 0.0


def test_without_equal_texts_only_pairs_are_positives():
    images, texts, scale = draw(7, 5), draw(7, 5)[::-1].copy(), tf.constant(7.0)
    tokens = tf.constant([[i // 3, i % 3] for i in range(7)])
    for found, expected in zip(
        contrastive(images, texts, scale, tokens=tokens), contrastive(images, texts, scale)
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


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


def share_of_the_loss(images, texts, scale, tokens=None):
    """The global numbers, and the gradients of this replica's share of the loss."""
    context = replicas.current()
    with tf.GradientTape() as tape:
        tape.watch([images, texts, scale])
        answer = contrastive(images, texts, scale, tokens=tokens)
        share = answer.loss / context.count
    to_images, to_texts, to_scale = tape.gradient(share, [images, texts, scale])
    numbers = [context.mean(answer.loss), context.mean(answer.accuracy), context.sum(to_scale)]
    return tf.stack(numbers), to_images, to_texts


# Texts that are equal across replicas, and within one.
EQUAL = np.array([[1, 2], [3, 2], [1, 2], [4, 0], [4, 0], [3, 2], [1, 2], [2, 1]], "int32")


@pytest.mark.parametrize("count, tokens", [(2, None), (4, None), (2, EQUAL), (4, EQUAL)])
def test_several_replicas_have_the_loss_and_the_gradient_of_one(count, tokens):
    images, texts, scale = draw(8, 3), draw(8, 3)[::-1].copy(), tf.constant(7.0)
    rows = () if tokens is None else (tokens,)
    expected = share_of_the_loss(tf.constant(images), tf.constant(texts), scale, *rows)
    strategy = tiny.strategy_of(count)

    def share(whole):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(np.split(whole, count)[context.replica_id_in_sync_group])
        )

    step = tf.function(
        lambda image, text, *rows: strategy.run(share_of_the_loss, (image, text, scale, *rows))
    )
    answers = step(share(images), share(texts), *map(share, rows))
    answers = strategy.experimental_local_results(answers)
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
