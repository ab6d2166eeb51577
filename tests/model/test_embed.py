"""Patches and word pieces become tokens, in order, with a learned position each."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model.embed import PatchEmbed, WordEmbed

D = 7


def set_position(layer, number):
    """Gives every token but one the position 0, and that one 1000."""
    positions = np.zeros(layer.positions.shape)
    positions[number] = 1000
    layer.positions.assign(positions)


def test_patches_are_cut_row_by_row():
    layer = PatchEmbed(D, patch_size=2, image_size=6)
    images = np.random.default_rng(0).uniform(-1, 1, [2, 6, 6, 3]).astype("float32")
    layer.build(images.shape)
    set_position(layer, 4)
    patches = [
        images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(2, 12)
        for row in range(3)
        for column in range(3)
    ]
    expected = np.stack(patches, axis=1) @ layer.projection.kernel.numpy()
    expected[:, 4] += 1000
    np.testing.assert_allclose(layer(tf.constant(images)), expected, rtol=1e-6, atol=1e-5)


def test_uint8_images_are_those_between_minus_one_and_one():
    layer = PatchEmbed(D, patch_size=2, image_size=2)
    pixels = np.array([0, 51, 102, 153, 204, 255] * 2, "uint8").reshape(1, 2, 2, 3)
    floats = np.array([-1, -0.6, -0.2, 0.2, 0.6, 1] * 2, "float32").reshape(1, 2, 2, 3)
    found, expected = layer(tf.constant(pixels)), layer(tf.constant(floats))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_word_pieces_are_looked_up():
    layer = WordEmbed(D, vocabulary_size=11, text_length=4)
    ids = np.array([[3, 0, 10, 3]], "int32")
    layer.build(ids.shape)
    set_position(layer, 2)
    expected = layer.embeddings.numpy()[ids]
    expected[:, 2] += 1000
    np.testing.assert_allclose(layer(tf.constant(ids)), expected, rtol=1e-6)


def test_a_patch_that_does_not_divide_the_image_is_refused():
    with pytest.raises(ValueError, match="multiple of `patch_size`. Received: image_size=7, patch"):
        PatchEmbed(D, patch_size=2, image_size=7)


IMAGE = PatchEmbed(D, patch_size=2, image_size=4)
WORDS = WordEmbed(D, vocabulary_size=11, text_length=3)


@pytest.mark.parametrize(
    "layer, inputs, error, message",
    [
        (IMAGE, np.zeros((4, 4, 3), "uint8"), ValueError, r"\(batch, 4, 4, 3\).*\(4, 4, 3\)"),
        (IMAGE, np.zeros((2, 4, 6, 3), "uint8"), ValueError, r"\(batch, 4, 4, 3\).*\(2, 4, 6, 3\)"),
        (IMAGE, np.full((2, 4, 4, 3), 17.0), ValueError, "0..255 must be uint8. .* value of 17"),
        (IMAGE, np.full((2, 4, 4, 3), -17.0), ValueError, r"in \[-1, 1\]; .* value of 17"),
        (WORDS, np.array([[1, 2, 11]]), ValueError, "from 0 to 10, .*Received: ids from 1 to 11"),
        (WORDS, np.array([[-1, 2, 3]]), ValueError, "Received: ids from -1 to 3"),
        (WORDS, np.array([["a", "b", "c"]]), TypeError, "`data.words.Vocabulary` makes.*string"),
        (WORDS, np.zeros((3,), "int32"), ValueError, r"shape \(batch, 3\). Received: shape=\(3,\)"),
    ],
)
def test_what_is_no_batch_of_images_or_ids_is_refused(layer, inputs, error, message):
    with pytest.raises(error, match=message):
        layer(inputs)


def test_symbolic_inputs_of_another_form_are_refused_when_the_model_is_made():
    with pytest.raises(ValueError, match=r"\(batch, 4, 4, 3\). Received: shape=\(None, 4, 8, 3\)"):
        IMAGE(keras.Input((4, 8, 3)))
    with pytest.raises(TypeError, match="`text` must be integer ids, .*Received: dtype=float32"):
        WORDS(keras.Input((3,)))


def test_standardized_pixels_and_an_empty_batch_pass():
    assert IMAGE(np.full((2, 4, 4, 3), 2.7, "float32")).shape == (2, 4, D)
    assert IMAGE(np.zeros((0, 4, 4, 3), "float32")).shape == (0, 4, D)
    assert WORDS(np.zeros((0, 3), "int32")).shape == (0, 3, D)


def test_a_class_token_with_a_position_comes_before_the_patches():
    images = np.random.default_rng(0).uniform(-1, 1, [2, 4, 4, 3]).astype("float32")
    layer, plain = (PatchEmbed(D, patch_size=2, image_size=4, class_token=c) for c in (True, False))
    for each in (layer, plain):
        each.build(images.shape)
    plain.projection.set_weights(layer.projection.get_weights())
    plain.positions.assign(layer.positions[1:])
    found = layer(tf.constant(images))
    first = (layer.class_embedding + layer.positions[0]).numpy()
    np.testing.assert_allclose(found[:, 0], [first, first], atol=1e-6)
    np.testing.assert_allclose(found[:, 1:], plain(tf.constant(images)), atol=1e-6)
    assert layer.num_tokens == 5 and layer.num_patches == 4
    assert layer.compute_output_shape((2, 4, 4, 3)) == found.shape == (2, 5, D)


@pytest.mark.parametrize("class_token", [False, True])
def test_the_mask_token_stands_in_the_place_of_masked_patches(class_token):
    layer = PatchEmbed(D, patch_size=2, image_size=4, class_token=class_token, mask_token=True)
    images = np.random.default_rng(0).integers(0, 256, [2, 4, 4, 3]).astype("uint8")
    masked = np.array([[True, False, False, True], [False, False, True, False]])
    layer.build(images.shape)
    shown, found = layer(tf.constant(images)), layer(tf.constant(images), tf.constant(masked))
    first = int(class_token)
    of_mask = (layer.mask_embedding + layer.positions).numpy()[first:]
    for example in range(2):
        expected = np.where(masked[example][:, np.newaxis], of_mask, shown[example, first:])
        np.testing.assert_allclose(found[example, first:], expected, atol=1e-6)
    if class_token:
        np.testing.assert_array_equal(found[:, 0], shown[:, 0])


def test_patches_cannot_be_masked_without_a_mask_token():
    with pytest.raises(ValueError, match="`masked` needs a mask token. Received: mask_token=False"):
        IMAGE(np.zeros((2, 4, 4, 3), "uint8"), np.zeros((2, 4), "bool"))


def test_the_config_keeps_the_tokens():
    layer = PatchEmbed(D, patch_size=2, image_size=4, class_token=True, mask_token=True)
    again = PatchEmbed.from_config(layer.get_config())
    assert again.class_token and again.mask_token and again.num_tokens == 5
