"""Patches and word pieces become tokens, in order, with a learned position each."""

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
