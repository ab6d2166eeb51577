"""Models that trace in seconds, batches for them, and replicas on logical CPUs."""

import functools
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import Limoe, TwoTower
from limoe_tf.data import masking
from limoe_tf.model import k_means, patch_codes
from limoe_tf.model.vlmoe import VlMoe
from limoe_tf.train import step

VALUES = {
    "width": 12,
    "depth": 2,
    "num_heads": 2,
    "hidden_width": 16,
    "patch_size": 4,
    "image_size": 8,
    "text_length": 5,
    "vocabulary_size": 19,
}


# 16 patches of an image, of which 6 are masked.
VLMOE_VALUES = {
    **VALUES,
    "image_size": 16,
    "fused_blocks": 1,
    "num_experts": 4,
    "num_codes": 5,
}


def limoe(**changes):
    """A dense block, then a sparse one of 4 experts, unless `changes` says otherwise."""
    return Limoe(**{**VALUES, "num_experts": 4, **changes})


def two_tower(**changes):
    return TwoTower(**{**VALUES, **changes})


class Codebook(NamedTuple):
    """What a model reads of a codebook, without a file."""

    centres: np.ndarray
    patch_size: int = 4
    path: str = "made/up.npz"
    sha256: str = "0" * 64
    model: tuple = ()

    @property
    def looks(self):
        return self.centres


@functools.cache
def codebook(num_codes=5):
    """Codes of patches of noise, about as many patches of each."""
    noise = np.random.default_rng(2).integers(0, 256, [20, 16, 16, 3]).astype("uint8")
    looks = patch_codes.features(tf.constant(noise), patch_size=4).numpy()
    return Codebook(k_means.fit(looks.reshape(-1, patch_codes.NUM_FEATURES), num_codes))


def vlmoe(**changes):
    """A dense block, then a sparse one that has a feed-forward for pairs, and a codebook."""
    model = VlMoe(**{**VLMOE_VALUES, **changes})
    if model.patch_codes is not None:
        model.use_codebook(codebook(model.patch_codes.num_codes))
    return model


def masked_batch(size=6, seed=0, word_share=0.15):
    """Pairs, images alone and texts alone, in NumPy; the words 4 to 18, the end 3, padding 0."""
    rng = np.random.default_rng([11, seed])

    def image():
        draws = rng.uniform(size=[size, masking.num_patch_draws(16)]).astype("float32")
        places = masking.masked_patches(tf.constant(draws), num_patches=16, share=0.4)
        images = rng.integers(0, 256, [size, 16, 16, 3]).astype("uint8")
        return {"image": images, "image_masked": places}

    def text(share):
        places, last = np.arange(5), rng.integers(1, 5, [size, 1])
        words = rng.integers(4, 19, [size, 5])
        found = np.where(places < last, words, np.where(places == last, 3, 0)).astype("int32")
        shown, masked, present = masking.masked_words(
            tf.constant(rng.uniform(size=[size, 15]).astype("float32")),
            tf.constant(found),
            tf.constant(places <= last),
            words=list(range(4, 19)),
            vocabulary_size=19,
            share=share,
        )
        return {
            "text": found, "text_valid": places <= last, "text_shown": shown,
            "text_masked": masked, "text_masked_present": present,
        }  # fmt: skip

    lone = {**image(), **text(word_share)}
    both = {**image(), **text(0.5), **{f"lone_{name}": value for name, value in lone.items()}}
    return {name: np.asarray(value) for name, value in both.items()}


def masked_tensors(size=6, seed=0, **options):
    found = masked_batch(size, seed, **options)
    return {name: tf.constant(value) for name, value in found.items()}


def batch(size=6, seed=0):
    """Pairs of a uint8 image and a text of 1 to 5 pieces, the rest padding, in NumPy."""
    rng = np.random.default_rng([7, seed])
    lengths = rng.integers(1, 6, [size, 1])
    return {
        "image": rng.integers(0, 256, [size, 8, 8, 3]).astype("uint8"),
        "text": rng.integers(1, 19, [size, 5]).astype("int32"),
        "text_valid": np.arange(5) < lengths,
    }


def tensors(size=6, seed=0):
    return {name: tf.constant(value) for name, value in batch(size, seed).items()}


def dataset(num_batches=3, size=8, seed=0):
    """Batches of a static size."""
    pairs = tf.data.Dataset.from_tensor_slices(batch(num_batches * size, seed))
    return pairs.batch(size, drop_remainder=True)


def second_step(batch_size, *, model_options, jit_compile=False, **compile_options):
    """Logs, gradients by path, and the counters of the noise, of a step after a first one."""
    keras.utils.set_random_seed(0)
    model = limoe(**model_options)
    model.compile("sgd", **compile_options)
    differentiate = tf.function(
        lambda batch: step.differentiate(model, batch, model.loss_weights),
        jit_compile=jit_compile,
        autograph=False,
    )
    differentiate(tensors(batch_size))
    logs, gradients = differentiate(tensors(batch_size, seed=1))
    paths = [v.path.split("/", 1)[1] for v in model.trainable_variables]
    counters = [v.numpy() for v in model.non_trainable_variables]
    return logs, dict(zip(paths, gradients, strict=True)), counters


def assert_same_step(found, expected):
    """Compares results of `second_step` to float32 rounding."""
    for part, wanted in zip(found[:2], expected[:2]):
        assert set(part) == set(wanted)
        for name, value in wanted.items():
            scale = max(0.1, np.abs(value).max())
            np.testing.assert_allclose(part[name], value, 0, atol=1e-5 * scale, err_msg=name)
    assert found[2] == expected[2]


def strategy_of(num_replicas):
    """A strategy over that many logical CPUs; for one replica, no strategy."""
    if num_replicas == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(num_replicas)])
