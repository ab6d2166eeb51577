"""A tiny vocabulary, models whose experts differ, and processes that know TensorFlow alone."""

import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf

from limoe_tf.data import words
from tests.shared import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
PIECES = 29
_BLOCK = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in %r:
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Block())
"""
_OURS = ("limoe_tf", "gin", "mesh_tensorflow", "sentencepiece", "tensorflow_datasets")


def vocabulary(folder, *, text_length=5):
    """A vocabulary of single letters and some words."""
    path = str(folder / "vocabulary.model")
    captions = ["a red circle and a blue star", "the green ring, a photo of squares"] * 5
    words.train_vocabulary(captions, path=path, size=PIECES)
    return words.Vocabulary(path, text_length=text_length)


def draw_weights(model, seed=0):
    """Sets all weights at random, so that experts differ and routing matters."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        if "logit_scale" not in variable.path:
            variable.assign(random.normal(0, 0.3, variable.shape))
    return model


def small_model(path):
    """Writes a small SavedModel to a folder that is not there yet."""
    from limoe_tf.export import saved_model

    path.parent.mkdir(parents=True, exist_ok=True)
    model = tiny.limoe(depth=1, vocabulary_size=PIECES)
    saved_model.export(model, vocabulary(path.parent), path, templates=["a {}"])


def picture(seed, height=20, width=24):
    """An image of mostly one colour, <uint8>[H, W, 3]."""
    random = np.random.default_rng([5, seed])
    noise = random.integers(0, 256, (height, width, 3))
    return (0.7 * random.integers(0, 256, 3) + 0.3 * noise).astype("uint8")


def write_png(path, seed, **size):
    tf.io.write_file(str(path), tf.io.encode_png(picture(seed, **size)))
    return str(path)


def run_alone(code, *arguments, cwd=ROOT):
    """Runs Python code where importing this package or what only it needs is an error."""
    command = [sys.executable, "-c", _BLOCK % (_OURS,) + code, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
