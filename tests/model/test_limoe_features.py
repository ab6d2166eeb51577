"""Codes of a trained LIMoE's features: one file has the model and the centres."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import masking
from limoe_tf.model import k_means, limoe_features, patch_codes
from limoe_tf.model.limoe_features import LimoeFeatures
from limoe_tf.model.patch_codes import PatchCodebook
from limoe_tf.model.vlmoe import VlMoe
from tests.shared import tiny

IMAGES = np.random.default_rng(0).integers(0, 256, [5, 16, 16, 3]).astype("uint8")
MODELS = {
    "one tower": lambda: tiny.limoe(image_size=16),
    "two towers": lambda: tiny.two_tower(image_size=16),
    "experts of modalities": lambda: tiny.limoe(image_size=16, routing="experts_per_modality"),
    "routers of modalities": lambda: tiny.limoe(image_size=16, routing="router_per_modality"),
    "images alone": lambda: tiny.limoe(image_size=16, modalities=("image",)),
}


@pytest.fixture(scope="module")
def limoe():
    return tiny.limoe(image_size=16)


@pytest.fixture(scope="module")
def arrays(limoe):
    return limoe_features.packed(limoe)


@pytest.fixture(scope="module")
def codebook(arrays, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("codes") / "codes.npz")
    return write(path, arrays)


def write(path, arrays, *, seed=0):
    samples = LimoeFeatures(arrays)(tf.constant(IMAGES)).numpy()
    centres = k_means.fit(samples.reshape(-1, samples.shape[-1]), 5, seed=seed)
    looks = patch_codes.features(tf.constant(IMAGES), patch_size=4).numpy().reshape(-1, 11)
    return patch_codes.write(path, centres, patch_size=4, looks=looks[:5], model=arrays)


@pytest.mark.parametrize("name", MODELS)
def test_the_mean_of_the_features_is_that_of_the_model(name):
    model = MODELS[name]()
    features = LimoeFeatures(limoe_features.packed(model))
    found = features(tf.constant(IMAGES))
    assert found.shape == (5, 16, 12) and found.dtype == tf.float32
    expected = model.image_features(tf.constant(IMAGES))
    np.testing.assert_allclose(tf.reduce_mean(found, axis=1), expected, atol=1e-5)
    assert (features.patch_size, features.image_size) == (4, 16)


def test_no_token_is_dropped_and_no_image_changes_another():
    crowded = tiny.limoe(image_size=16, inference_capacity_factor=0.1, dtype="mixed_bfloat16")
    features = LimoeFeatures(limoe_features.packed(crowded))
    whole = features(tf.constant(IMAGES))
    one_by_one = [features(tf.constant(IMAGES[i : i + 1])) for i in range(5)]
    np.testing.assert_allclose(whole, tf.concat(one_by_one, 0), atol=1e-5)


def test_a_model_of_texts_has_no_features_and_another_file_no_model(arrays):
    with pytest.raises(ValueError, match=r"need a model of images. Received: modalities=\('text'"):
        limoe_features.packed(tiny.limoe(modalities=("text",)))
    fewer = {name: array for name, array in arrays.items() if "final_norm" not in name}
    other = {**arrays, "limoe": np.frombuffer(b"{}", np.uint8)}
    for wrong in (fewer, other, {"limoe": arrays["limoe"]}):
        with pytest.raises(ValueError, match="must be of a Limoe that this version can read"):
            LimoeFeatures(wrong)


def test_one_hash_is_of_the_centres_and_the_model(arrays, codebook, tmp_path):
    assert write(str(tmp_path / "same.npz"), arrays).sha256 == codebook.sha256
    other = {**arrays, "limoe/image_embed/positions": arrays["limoe/image_embed/positions"] + 1}
    centres = {"patch_size": 4, "looks": codebook.looks, "model": other}
    changed = patch_codes.write(str(tmp_path / "other.npz"), codebook.centres, **centres)
    assert changed.sha256 != codebook.sha256
    read = PatchCodebook(codebook.path)
    assert sorted(read.model) == sorted(arrays)
    assert LimoeFeatures(read.model).sha256 == LimoeFeatures(arrays).sha256


def test_targets_are_the_nearest_centres_and_the_model_gets_no_weights(arrays, codebook):
    model = VlMoe(**tiny.VLMOE_VALUES)
    names = [weight.path for weight in model.weights]
    model.use_codebook(codebook)
    assert [weight.path for weight in model.weights] == names
    found = model.patch_targets(tf.constant(IMAGES))
    samples = LimoeFeatures(arrays)(tf.constant(IMAGES)).numpy()
    assert found.dtype == tf.int32
    np.testing.assert_array_equal(found, k_means.nearest(samples, codebook.centres))
    # The colours of a code are those of its patches, as far as the file says.
    colours = np.clip(255 * codebook.looks[:, 8:] / 2, 0, 255)
    np.testing.assert_allclose(model.patch_codes.colours(tf.range(5)), colours, atol=1)


def test_training_learns_these_codes_and_leaves_the_features(arrays, codebook, tmp_path):
    model = VlMoe(**tiny.VLMOE_VALUES)
    model.use_codebook(codebook)
    model.compile("sgd")
    draws = tf.constant(np.random.default_rng(1).uniform(size=[5, masking.num_patch_draws(16)]))
    places = masking.masked_patches(tf.cast(draws, tf.float32), num_patches=16, share=0.4)
    batch = {"lone_image": IMAGES, "lone_image_masked": places}
    before = model.patch_head.trainable_variables[0].numpy()
    model.train_on_batch(batch)
    assert (model.patch_head.trainable_variables[0].numpy() != before).any()
    samples = LimoeFeatures(arrays)(tf.constant(IMAGES)).numpy()
    expected = k_means.nearest(samples, codebook.centres)
    np.testing.assert_array_equal(model.patch_targets(tf.constant(IMAGES)), expected)
    # What is saved knows of the features that it must be given them again.
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="must be given its codebook again, by `use_codebook`"):
        loaded.patch_targets(tf.constant(IMAGES))
    other = write(str(tmp_path / "other.npz"), arrays, seed=1)
    with pytest.raises(ValueError, match="must meet the codebook with which they were trained"):
        loaded.use_codebook(other)
    loaded.use_codebook(codebook)
    np.testing.assert_array_equal(loaded.patch_targets(tf.constant(IMAGES)), expected)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"image_size": 32}, "for the model's images of 32 pixels. Received: .* of 16 pixels"),
        ({"patch_size": 8}, "must be that of .*'patch_size': 8.* of .*'patch_size': 4"),
        ({"num_codes": 6}, "must be that of .*'num_codes': 6.* of .*'num_codes': 5"),
    ],
)
def test_a_codebook_of_other_images_or_patches_is_refused(codebook, values, message):
    model = VlMoe(**{**tiny.VLMOE_VALUES, **values})
    with pytest.raises(ValueError, match=message):
        model.use_codebook(codebook)
