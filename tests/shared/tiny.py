"""A model that traces in seconds, batches for it, and replicas on logical CPUs."""

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import Limoe, TwoTower
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


def limoe(**changes):
    """A dense block, then a sparse one of 4 experts, unless `changes` says otherwise."""
    return Limoe(**{**VALUES, "num_experts": 4, **changes})


def two_tower(**changes):
    return TwoTower(**{**VALUES, **changes})


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
