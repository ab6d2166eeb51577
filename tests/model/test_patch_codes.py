"""Codes of patches: what patches look like, k-means, and the file of its centres."""

import hashlib
import json
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import grid_scenes
from limoe_tf.model import k_means, patch_codes
from limoe_tf.model.patch_codes import PatchCodebook, PatchCodes

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, [2, 8, 12, 3]).astype("uint8")
NUM_FEATURES = 11


def looks_by_loops(image, size):
    """Features of each patch, pixel by pixel: eight directions, and three colours."""
    image = np.float64(image) / 255
    grey, (height, width, _) = image.mean(axis=2), image.shape
    found = np.zeros([height // size, width // size, NUM_FEATURES])
    for y in range(height):
        for x in range(width):
            # At the border the pixel itself stands for its missing neighbour.
            across = grey[y, min(x + 1, width - 1)] - grey[y, max(x - 1, 0)]
            down = grey[min(y + 1, height - 1), x] - grey[max(y - 1, 0), x]
            place = np.arctan2(down, across) % np.pi / np.pi * 8
            low, share = int(place), place % 1
            patch = found[y // size, x // size]
            patch[low % 8] += 8 * (1 - share) * np.hypot(across, down) / size**2
            patch[(low + 1) % 8] += 8 * share * np.hypot(across, down) / size**2
            patch[8:] += 2 * image[y, x] / size**2
    return found.reshape(-1, NUM_FEATURES)


def test_features_are_directions_of_gradients_and_colours():
    found = patch_codes.features(tf.constant(IMAGES), patch_size=4)
    assert found.shape == (2, 6, NUM_FEATURES) and found.dtype == tf.float32
    for image, value in zip(IMAGES, found):
        np.testing.assert_allclose(value, looks_by_loops(image, 4), atol=1e-4)


def test_an_edge_is_counted_in_the_bin_of_its_direction():
    # One column of 2 of 4 pixels is white: across it the grey changes by 1 in both middle columns.
    image = np.zeros([1, 4, 4, 3], "uint8")
    image[:, :, 2:] = 255
    found = patch_codes.features(tf.constant(image), patch_size=4)[0, 0].numpy()
    # 8 pixels of 16 with a length of 1, times 8; the mean colour 1/2, times 2.
    np.testing.assert_allclose(found, [4, *[0] * 7, 1, 1, 1], atol=1e-4)
    turned = patch_codes.features(tf.constant(image.transpose(0, 2, 1, 3)), patch_size=4)[0, 0]
    np.testing.assert_allclose(turned, [0, 0, 0, 0, 4, 0, 0, 0, 1, 1, 1], atol=1e-4)


@pytest.mark.parametrize("look", [patch_codes.features, patch_codes.pixels])
def test_floats_look_like_the_bytes_they_stand_for(look):
    floats = tf.constant(IMAGES / 127.5 - 1, tf.float32)
    found, expected = (look(value, patch_size=4) for value in (floats, tf.constant(IMAGES)))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_pixels_are_those_of_each_patch_row_by_row():
    found = patch_codes.pixels(tf.constant(IMAGES), patch_size=4).numpy()
    assert found.shape == (2, 6, 48)
    np.testing.assert_allclose(found[:, 5], IMAGES[:, 4:, 8:].reshape(2, 48) / 127.5 - 1, atol=1e-6)


SCATTERED = RNG.normal(size=(300, 3)).astype("float32")
# Five far points, with 20 samples close around each.
CORNERS = np.float32([[0, 0], [100, 0], [0, 100], [100, 100], [50, 300]])
AROUND = (CORNERS[:, np.newaxis] + RNG.uniform(-1, 1, [5, 20, 2])).astype("float32")
SAMPLES = RNG.permutation(AROUND.reshape(-1, 2))


@pytest.mark.parametrize("seed", range(5))
def test_well_separated_clusters_are_found(seed):
    centres = k_means.fit(SAMPLES, 5, seed=seed)
    found, expected = (sorted(map(tuple, c)) for c in (centres, AROUND.mean(axis=1)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_the_same_samples_and_seed_give_the_same_centres():
    first, second = (k_means.fit(SCATTERED, 8, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32 and first.shape == (8, 3)
    assert (k_means.fit(SCATTERED, 8, seed=4) != first).any()


def test_centres_are_the_means_of_their_samples_and_none_is_empty():
    centres = k_means.fit(SCATTERED, 8)
    own = k_means.nearest(SCATTERED, centres)
    assert set(own) == set(range(8))
    spread = ((SCATTERED - centres[own]) ** 2).sum()
    first = k_means.nearest(SCATTERED, SCATTERED[:8])
    assert spread < ((SCATTERED - SCATTERED[:8][first]) ** 2).sum()
    means = [SCATTERED[own == code].mean(axis=0) for code in range(8)]
    np.testing.assert_allclose(centres, means, atol=0.1)


def test_a_centre_that_loses_all_its_samples_moves_to_the_farthest_one(monkeypatch):
    # Two centres begin at 0 and one at 10: the first of the equal ones takes all samples near 0.
    samples = np.float32([[0], [0], [0.2], [10], [12]])
    starts = iter([0, 1, 3])

    class Drawn:
        def integers(self, count):
            return next(starts)

        def choice(self, count, p):
            return next(starts)

    monkeypatch.setattr(patch_codes.np.random, "default_rng", lambda seed: Drawn())
    centres = k_means.fit(samples, 3)
    # 12 is farthest from its own centre, 11 or 10, and gets the empty one.
    np.testing.assert_allclose(sorted(centres[:, 0]), [0.2 / 3, 10, 12], atol=1e-6)


def test_more_codes_than_different_samples_are_refused():
    samples = np.repeat(CORNERS[:3], 7, axis=0)
    assert len(np.unique(k_means.fit(samples, 3), axis=0)) == 3
    with pytest.raises(ValueError, match="that look different. Received: num_codes=4 for 3"):
        k_means.fit(samples, 4)


def test_the_nearest_centre_is_that_of_the_smallest_distance():
    samples = RNG.normal(size=(4, 5, 3)).astype("float32")
    centres = RNG.normal(size=(7, 3)).astype("float32")
    squares = ((samples[..., np.newaxis, :] - centres) ** 2).sum(axis=-1)
    found = k_means.nearest(samples, centres)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, squares.argmin(axis=-1))


def centres_of(images, num_codes, patch_size=4):
    looks = patch_codes.features(tf.constant(images), patch_size=patch_size).numpy()
    return k_means.fit(looks.reshape(-1, NUM_FEATURES), num_codes), looks


def test_the_layer_gives_the_nearest_codes_and_trains_nothing():
    centres, looks = centres_of(IMAGES, 5)
    layer = PatchCodes(5, patch_size=4)
    layer.build((None, 8, 12, 3))
    layer.centres.assign(centres)
    found = layer(tf.constant(IMAGES))
    assert found.dtype == tf.int32 and found.shape == layer.compute_output_shape(IMAGES.shape)
    np.testing.assert_array_equal(found, k_means.nearest(looks, centres))
    assert len(np.unique(found)) > 2
    assert layer.trainable_variables == [] and len(layer.weights) == 1
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert (again.num_codes, again.patch_size) == (5, 4)


def test_codes_have_the_colours_of_their_patches():
    plain = np.array([[250, 10, 90], [0, 0, 0], [255, 255, 255]], "uint8")
    images = np.broadcast_to(plain[:, np.newaxis, np.newaxis], [3, 4, 4, 3])
    centres, _ = centres_of(images, 3)
    layer = PatchCodes(3, patch_size=4)
    layer.build((None, 4, 4, 3))
    layer.centres.assign(centres)
    found = layer.colours(layer(tf.constant(images)))
    assert found.dtype == tf.uint8 and found.shape == (3, 1, 3)
    np.testing.assert_allclose(found[:, 0], plain, atol=1)


def test_codes_are_found_in_float32_under_any_policy():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    centres, looks = centres_of(IMAGES, 5)
    layer = PatchCodes(5, patch_size=4)
    layer.build((None, 8, 12, 3))
    layer.centres.assign(centres)
    np.testing.assert_array_equal(layer(tf.constant(IMAGES)), k_means.nearest(looks, centres))


def test_a_file_gives_back_the_centres_and_is_known_by_its_hash(tmp_path):
    centres, _ = centres_of(IMAGES, 5)
    path = str(tmp_path / "below" / "codes.npz")
    written = patch_codes.write(path, centres, patch_size=4)
    assert os.listdir(tmp_path / "below") == ["codes.npz"]  # No part of it is left.
    read = PatchCodebook(path)
    np.testing.assert_array_equal(read.centres, centres)
    assert read.patch_size == 4 and read.path == path
    with open(path, "rb") as file:
        content = file.read()
    assert read.read() == content
    assert read.sha256 == written.sha256 == hashlib.sha256(content).hexdigest()
    other = patch_codes.write(str(tmp_path / "b.npz"), centres + 1, patch_size=4)
    assert other.sha256 != read.sha256


def test_the_same_centres_make_the_same_file(tmp_path):
    centres, _ = centres_of(IMAGES, 5)
    first, second = (
        patch_codes.write(str(tmp_path / name), centres, patch_size=4)
        for name in ("a.npz", "b.npz")
    )
    assert first.sha256 == second.sha256


def test_what_is_no_codebook_is_refused(tmp_path):
    (tmp_path / "text.npz").write_text("codes")
    np.savez(tmp_path / "other.npz", means=np.zeros([5, 11]))
    np.save(tmp_path / "array.npy", np.zeros([5, 11]))
    whole = patch_codes.write(str(tmp_path / "whole.npz"), np.zeros([5, 11]), patch_size=4)
    (tmp_path / "part.npz").write_bytes(whole.read()[:-50])
    (tmp_path / "empty.npz").touch()
    for name in ("text.npz", "other.npz", "array.npy", "part.npz", "empty.npz"):
        with pytest.raises(ValueError, match=f"must be a codebook of patches. .*{name}"):
            PatchCodebook(tmp_path / name)
    np.savez(tmp_path / "narrow.npz", centres=np.zeros([5, 10]), patch_size=4)
    with pytest.raises(ValueError, match=r"centres of 11 features. Received: shape=\(5, 10\)"):
        PatchCodebook(tmp_path / "narrow.npz")
    with pytest.raises(ValueError, match="`path` must be an existing file"):
        PatchCodebook(tmp_path / "none.npz")


def test_codes_tell_the_colours_of_objects():
    # Quarter `place` of 32 pixels has four patches of 16; the object lies in all of them.
    scenes = [grid_scenes.render("train", index) for index in range(200)]
    images = np.stack([scene.image for scene in scenes])
    centres, looks = centres_of(images, 64, patch_size=16)
    codes = k_means.nearest(looks, centres).reshape(200, 4, 4)
    seen = []  # (whether it is to be told, the code, the colour)
    for number, scene in enumerate(scenes):
        for thing in scene.things:
            row, column = 2 * (thing.place // 2), 2 * (thing.place % 2)
            patches = codes[number, row : row + 2, column : column + 2]
            seen += [(number >= 100, code, thing.colour) for code in patches.flat]
    seen = np.array(seen)
    known, told = seen[seen[:, 0] == 0], seen[seen[:, 0] == 1]
    counts = np.zeros([64, 6])
    np.add.at(counts, (known[:, 1], known[:, 2]), 1)
    right = counts.argmax(axis=1)[told[:, 1]] == told[:, 2]
    assert right.mean() > 0.6  # Chance is one of six.
