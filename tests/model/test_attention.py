"""Self-attention against NumPy, one example and one head at a time."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model import attention
from limoe_tf.model.attention import SelfAttention
from limoe_tf.train import step
from tests.shared import tiny

B, N, D, A = 3, 5, 14, 2


@pytest.fixture
def layer():
    layer = SelfAttention(A)
    layer.build((None, N, D))
    random = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        variable.assign(random.normal(0, 0.5, variable.shape))
    return layer


def draw():
    return np.random.default_rng(1).normal(size=[B, N, D]).astype("float32")


def project(dense, tokens):
    return tokens @ dense.kernel.numpy() + dense.bias.numpy()


def attend(layer, tokens):
    """Attention over the tokens [n, D] of one example, all of them valid."""
    query, key, value = (project(getattr(layer, n), tokens) for n in ("query", "key", "value"))
    heads = []
    for part in np.split(np.arange(D), A):
        scores = query[:, part] @ key[:, part].T / np.sqrt(D // A)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(shares / shares.sum(axis=1, keepdims=True) @ value[:, part])
    return project(layer.output_projection, np.concatenate(heads, axis=1))


def test_each_head_of_each_example_is_softmax_attention(layer):
    tokens = draw()
    expected = [attend(layer, example) for example in tokens]
    np.testing.assert_allclose(layer(tf.constant(tokens)), expected, rtol=0, atol=1e-5)


def test_padding_is_attended_to_by_nobody(layer):
    tokens, lengths = draw(), [5, 3, 1]
    valid = np.arange(N) < np.array(lengths)[:, np.newaxis]
    found = layer(tf.constant(tokens), tf.constant(valid)).numpy()
    for example, length, tokens_of_one in zip(found, lengths, tokens):
        expected = attend(layer, tokens_of_one[:length])
        np.testing.assert_allclose(example[:length], expected, rtol=0, atol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="must divide the width. Received: num_heads=3, width=14"):
        SelfAttention(3).build((None, N, D))


def scores_in(chunks, shape=(B, N, D)):
    """The numbers B of examples whose scores [B, A, N, N] are one table of the lowered program."""
    layer = SelfAttention(A, chunks=chunks)
    layer.build(shape)
    run = tf.function(layer, jit_compile=True, autograph=False)
    text = run.experimental_get_compiler_ir(tf.TensorSpec(shape))(stage="hlo")
    return {size for size in range(1, shape[0] + 1) if f"f32[{size},{A},{N},{N}]" in text}


@pytest.mark.parametrize(
    "chunks, examples", [(1, {3}), (3, {1}), (2, {3}), (100, {1}), (None, {3})]
)
def test_xla_is_given_scores_of_a_chunk_by_the_largest_divisor_of_the_batch(chunks, examples):
    assert scores_in(chunks) == examples


def test_without_a_number_chunks_are_as_large_as_their_bytes_allow(monkeypatch):
    # Two heads of 5 x 5 float32 are 200 bytes; 6 examples in chunks of 3, the divisor below 4.
    monkeypatch.setattr(attention, "_CHUNK_BYTES", 4 * 200)
    assert scores_in(None, (6, N, D)) == {3}
    monkeypatch.setattr(attention, "_CHUNK_BYTES", 100)
    assert scores_in(None, (6, N, D)) == {1}


def test_outside_xla_there_is_no_loop():
    layer = SelfAttention(A, chunks=B)
    layer.build((B, N, D))
    graph = (
        tf.function(layer, autograph=False).get_concrete_function(tf.TensorSpec((B, N, D))).graph
    )
    assert not [o for o in graph.get_operations() if "While" in o.type]


def test_the_number_of_chunks_is_checked():
    with pytest.raises(ValueError, match="`chunks` must be .*Received: chunks=0"):
        SelfAttention(A, chunks=0)


@functools.cache
def second_step(*, jit_compile=False, **options):
    return tiny.second_step(6, model_options=options, jit_compile=jit_compile)


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_limoe_trains_in_chunks_as_it_does_at_once(padding, recompute):
    options = {"mask_padding": padding, "recompute_blocks": recompute}
    found = second_step(attention_chunks=3, jit_compile=True, **options)
    tiny.assert_same_step(found, second_step(mask_padding=padding))


def test_a_vlmoe_whose_streams_attend_jointly_trains_in_chunks_as_it_does_at_once():
    def gradients(**options):
        keras.utils.set_random_seed(0)
        model = tiny.vlmoe(plan=("dense", "dense"), attention_chunks=3)
        model.compile("sgd")
        differentiate = tf.function(
            lambda batch: step.differentiate(model, batch, model.loss_weights),
            autograph=False,
            **options,
        )
        return tf.nest.flatten(differentiate(tiny.masked_tensors()))

    for found, wanted in zip(gradients(jit_compile=True), gradients(), strict=True):
        scale = max(0.1, np.abs(wanted).max())
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("make", [tiny.limoe, tiny.two_tower, tiny.vlmoe])
def test_models_hand_the_number_on_and_keep_it(make):
    model = make(attention_chunks=3)
    again = type(model).from_config(model.get_config())
    for one in (model, again):
        encoders = [layer for layer in one._flatten_layers() if isinstance(layer, SelfAttention)]
        assert len(encoders) >= 2 and {layer.chunks for layer in encoders} == {3}
