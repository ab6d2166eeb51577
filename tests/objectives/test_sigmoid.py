"""The sigmoid loss: by hand, by NumPy with its gradients, in chunks, and over several replicas."""

import math
import re

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.objectives.contrastive import contrastive
from limoe_tf.objectives.sigmoid import sigmoid_contrastive
from tests.shared import tiny

SCALE, BIAS = 7.0, -3.0
# Texts that are equal across replicas and chunks, and within one.
EQUAL = np.array([[1, 2], [3, 2], [1, 2], [4, 0], [4, 0], [3, 2], [1, 2], [2, 1]], "int32")


def draw(*shape):
    vectors = np.random.default_rng(shape).normal(size=shape).astype("float32")
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def pairs(size=8):
    return draw(size, 3), draw(size, 3)[::-1].copy()


def test_two_pairs_by_hand():
    # Both images are (1, 0); the texts are (1, 0) and (0, 1); t = log 3 and b = 0. The cosines are
    # 1 and 0 in both rows, so pairs with the first text have the probability 3/4, those with the
    # second 1/2. The first image is right with log(4/3) + log 2, the second, whose own text is the
    # second, pays log 4 + log 2. Over two pairs that is (log(4/3) + log 4 + 2 log 2) / 2.
    images = tf.constant([[1.0, 0.0], [1.0, 0.0]])
    texts = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    answer = sigmoid_contrastive(images, texts, tf.math.log(3.0), tf.constant(0.0))
    expected = (math.log(4 / 3) + math.log(4) + 2 * math.log(2)) / 2
    np.testing.assert_allclose(answer.loss, expected, rtol=1e-6)
    assert float(answer.accuracy) == 0.5


def numpy_route(images, texts, scale, bias, tokens=None):
    """The loss, the accuracy, and the gradients, pair by pair in float64."""
    images, texts = images.astype("float64"), texts.astype("float64")
    size, loss, hits = len(images), 0.0, 0
    gradients = [np.zeros_like(images), np.zeros_like(texts), 0.0, 0.0]
    keys = np.arange(size)[:, np.newaxis] if tokens is None else tokens
    for i in range(size):
        hits += (keys[i] == keys[np.argmax(texts @ images[i])]).all()
        for j in range(size):
            sign = 1 if (keys[i] == keys[j]).all() else -1
            cosine = images[i] @ texts[j]
            loss += np.log(1 + np.exp(-sign * (scale * cosine + bias))) / size
            slope = -sign / (1 + np.exp(sign * (scale * cosine + bias))) / size
            gradients[0][i] += slope * scale * texts[j]
            gradients[1][j] += slope * scale * images[i]
            gradients[2] += slope * cosine
            gradients[3] += slope
    return loss, hits / size, gradients


def share_of_the_loss(images, texts, scale, bias, tokens=None, num_chunks=1):
    """The global numbers, and the gradients of this replica's share of the loss."""
    context, sources = replicas.current(), [images, texts, scale, bias]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        answer = sigmoid_contrastive(*sources, tokens=tokens, num_chunks=num_chunks)
        share = answer.loss / context.count
    to_images, to_texts, *to_scalars = tape.gradient(share, sources)
    numbers = [context.mean(answer.loss), context.mean(answer.accuracy)]
    return tf.stack([*numbers, *map(context.sum, to_scalars)]), to_images, to_texts


def assert_is_that_of_numpy(answers, images, texts, tokens=None):
    loss, accuracy, gradients = numpy_route(images, texts, SCALE, BIAS, tokens)
    for numbers, _, _ in answers:
        np.testing.assert_allclose(numbers, [loss, accuracy, *gradients[2:]], rtol=1e-5, atol=1e-6)
    for part in (1, 2):
        found = np.concatenate([answer[part] for answer in answers])
        np.testing.assert_allclose(found, gradients[part - 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tokens", [None, EQUAL])
@pytest.mark.parametrize("num_chunks", [1, 4, 3])  # 3 does not divide 8: one chunk.
def test_it_is_the_loss_of_the_paper_with_its_gradients_in_any_number_of_chunks(num_chunks, tokens):
    images, texts = pairs()
    scalars = tf.constant(SCALE), tf.constant(BIAS)
    answer = share_of_the_loss(
        tf.constant(images), tf.constant(texts), *scalars, tokens, num_chunks
    )
    assert_is_that_of_numpy([answer], images, texts, tokens)


@pytest.mark.parametrize(
    "count, num_chunks, tokens", [(2, 1, None), (4, 1, EQUAL), (2, 2, EQUAL), (4, 2, None)]
)
def test_several_replicas_have_the_loss_and_the_gradient_of_one(count, num_chunks, tokens):
    images, texts = pairs()
    strategy = tiny.strategy_of(count)

    def share(whole):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(np.split(whole, count)[context.replica_id_in_sync_group])
        )

    def one(image, text, *rows):
        scalars = tf.constant(SCALE), tf.constant(BIAS)
        return share_of_the_loss(image, text, *scalars, *(rows or [None]), num_chunks)

    step = tf.function(lambda *parts: strategy.run(one, parts), autograph=False)
    rows = () if tokens is None else (tokens,)
    answers = step(share(images), share(texts), *map(share, rows))
    answers = strategy.experimental_local_results(answers)
    assert_is_that_of_numpy(answers, images, texts, tokens)


@pytest.mark.parametrize("size", [3, 1])
def test_a_last_batch_that_does_not_fill_all_replicas_has_the_loss_of_one(size):
    # Batches of 4 over 2 replicas: of 3 pairs one replica gets 2, of 1 pair one gets none.
    images, texts = pairs(size)
    strategy = tiny.strategy_of(2)
    batches = tf.data.Dataset.from_tensor_slices((images, texts)).batch(4)
    scalars = tf.constant(SCALE), tf.constant(BIAS)

    def one(image, text):
        return share_of_the_loss(image, text, *scalars, None, 2)

    step = tf.function(lambda source: strategy.run(one, next(source)), autograph=False)
    answers = step(iter(strategy.experimental_distribute_dataset(batches)))
    answers = strategy.experimental_local_results(answers)
    assert [len(to_images) for _, to_images, _ in answers] == [size - size // 2, size // 2]
    assert_is_that_of_numpy(answers, images, texts)


def test_no_array_of_the_compiled_step_holds_more_logits_than_those_of_a_chunk():
    # 16 images against 4 of 16 texts at a time: 64 logits, which neither a loop stacks to 256 nor
    # its gradient keeps. The embeddings are 16 x 3.
    images, texts = map(tf.constant, pairs(16))

    @tf.function(jit_compile=True, autograph=False)
    def share(images, texts):
        return share_of_the_loss(images, texts, tf.constant(SCALE), tf.constant(BIAS), None, 4)

    program = share.experimental_get_compiler_ir(images, texts)(stage="hlo")
    shapes = {
        tuple(map(int, sizes.split(","))) for sizes in re.findall(r"f32\[([\d,]+)\]", program)
    }
    assert max(math.prod(shape) for shape in shapes) == 64 and (16, 4) in shapes
    assert_is_that_of_numpy([share(images, texts)], images.numpy(), texts.numpy())


def test_large_logits_lose_no_digits():
    # A pair with a logit of 20 costs log(1 + e^-20), and so does every other with one of -20.
    images = tf.eye(2)
    answer = sigmoid_contrastive(images, images, tf.constant(40.0), tf.constant(-20.0))
    np.testing.assert_allclose(answer.loss, 2 * np.log1p(np.exp(-20.0)), rtol=1e-6)


@pytest.mark.parametrize("num_chunks", [1, 2])
def test_the_first_of_equally_near_texts_counts_as_with_the_softmax(num_chunks):
    same, scale = tf.tile(draw(1, 3), [4, 1]), tf.constant(5.0)
    found = sigmoid_contrastive(same, same, scale, tf.constant(0.0), num_chunks=num_chunks)
    assert float(found.accuracy) == float(contrastive(same, same, scale).accuracy) == 0.25
