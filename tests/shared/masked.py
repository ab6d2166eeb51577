"""Parts of batches for `VlMoe`, and what it makes of them, in NumPy."""

import re

import numpy as np

PAIR = {"image", "text", "text_valid"}


def part(batch, *streams):
    """What a batch holds of "lone_image", "lone_text" or "pair"."""

    def stream_of(name):
        found = re.match("lone_image|lone_text", name)
        return found[0] if found else "pair"

    return {name: value for name, value in batch.items() if stream_of(name) in streams}


def shown(batch):
    """A batch of which nothing is masked."""
    return {k: v for k, v in batch.items() if k.removeprefix("lone_") in PAIR}


def shaken(model):
    """The model with trained weights that are all different from zero and one."""
    for number, variable in enumerate(model.trainable_variables):
        rng = np.random.default_rng([3, number])
        variable.assign_add(rng.normal(scale=0.2, size=variable.shape).astype("float32"))
    return model


def encoded(model, batch):
    return {name: value.numpy() for name, value in model(batch)[0].items()}


def assert_equal(found, expected, where=None, atol=1e-5):
    assert set(found) == set(expected)
    for name, value in expected.items():
        flags = np.ones(value.shape[:2], bool) if where is None else where[name]
        np.testing.assert_allclose(found[name][flags], value[flags], atol=atol, err_msg=name)


def valid_of(batch):
    """By stream, False on padding: of images all tokens are valid, of texts the first, too."""
    images = np.ones([len(batch["image"]), 17], bool)
    texts = {
        name: np.pad(batch[f"{key}_valid"], [[0, 0], [1, 0]], constant_values=True)
        for name, key in (("text", "lone_text"), ("pair_text", "text"))
    }
    return {"image": images, "pair_image": images, **texts}
