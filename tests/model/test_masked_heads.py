"""What stands in masked places is told by heads of words and of patches."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model.masked_heads import MaskedPatchHead, MaskedWordHead, at_places

D, C = 6, 11
TOKENS = np.random.default_rng(0).normal(size=(2, 3, D)).astype("float32")
# Two rows more than word pieces: special tokens.
EMBEDDINGS = np.random.default_rng(1).normal(size=(C + 2, D)).astype("float32")


def built(layer):
    """The layer, with weights that are all different from zero and one."""
    layer.build((None, None, D))
    for number, variable in enumerate(layer.trainable_variables):
        rng = np.random.default_rng([1, number])
        variable.assign_add(rng.normal(scale=0.3, size=variable.shape))
    return layer


def test_tokens_are_taken_from_their_places():
    stream = tf.constant([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])
    found = at_places(stream, tf.constant([[2, 0], [1, 1]]))
    assert found.numpy()[..., 0].tolist() == [[3, 1], [5, 5]]


def test_the_head_of_patches_is_linear():
    layer = built(MaskedPatchHead(C))
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose(layer(TOKENS), TOKENS @ kernel + bias, atol=1e-5)


def words_by_numpy(layer, embeddings):
    """A dense layer, GELU and a norm; then the product with each word piece's vector."""
    weights = {v.path.removeprefix(f"{layer.name}/"): v.numpy() for v in layer.weights}
    hidden = TOKENS @ weights["dense/kernel"] + weights["dense/bias"]
    hidden *= (1 + np.tanh((2 / np.pi) ** 0.5 * (hidden + 0.044715 * hidden**3))) / 2
    centred = hidden - hidden.mean(axis=-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    normed = normed * weights["norm/gamma"] + weights["norm/beta"]
    return normed @ embeddings.T + weights["bias"]


def test_the_head_of_words_multiplies_by_their_embeddings():
    layer = built(MaskedWordHead(C))
    found = layer(TOKENS, tf.constant(EMBEDDINGS))
    np.testing.assert_allclose(found, words_by_numpy(layer, EMBEDDINGS[:C]), atol=1e-3)


def test_a_head_that_is_not_tied_has_vectors_of_its_own():
    layer = built(MaskedWordHead(C, tied=False))
    expected = words_by_numpy(layer, layer.embeddings.numpy())
    for others in ((), (tf.constant(EMBEDDINGS),)):  # Those are not read.
        np.testing.assert_allclose(layer(TOKENS, *others), expected, atol=1e-3)


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_has_a_gradient_and_the_table_too(tied):
    layer, embeddings = built(MaskedWordHead(C, tied=tied)), tf.constant(EMBEDDINGS)
    values = [v.value for v in layer.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(embeddings)
        loss = tf.reduce_sum(layer(TOKENS, embeddings) ** 2)
    *found, of_table = tape.gradient(loss, [*values, embeddings])
    assert all(float(tf.norm(one)) > 1e-3 for one in found)
    if tied:
        moved = np.abs(tf.convert_to_tensor(of_table)).max(axis=1) > 0
        np.testing.assert_array_equal(moved, [True] * C + [False] * 2)
    else:
        assert of_table is None


@pytest.mark.parametrize("make", [MaskedPatchHead, MaskedWordHead])
def test_half_precision_and_shapes(make):
    layer = make(C, dtype="mixed_bfloat16")
    layer.build((None, None, D))
    rest = (tf.constant(EMBEDDINGS),) if make is MaskedWordHead else ()
    found = layer(TOKENS, *rest)
    assert found.dtype == tf.bfloat16 and found.shape == layer.compute_output_shape((2, 3, D))
    assert {v.dtype for v in layer.weights} == {"float32"}


@pytest.mark.parametrize("layer", [MaskedPatchHead(C), MaskedWordHead(C, tied=False)])
def test_the_config_makes_the_same_layer_again(layer):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = built(keras.saving.deserialize_keras_object(config))
    assert again.get_config() == layer.get_config()
    assert [v.shape for v in again.weights] == [v.shape for v in built(layer).weights]


@pytest.mark.parametrize("make, name", [(MaskedPatchHead, "outputs"), (MaskedWordHead, "vocab")])
def test_a_head_of_nothing_is_refused(make, name):
    with pytest.raises(ValueError, match=f"{name}.* must be at least 1. Received: .*=0"):
        make(0)
