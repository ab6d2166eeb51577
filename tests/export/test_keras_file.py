"""Files of Keras: with their vocabulary, whole or not at all, on this machine or in a bucket."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.export import keras_file
from tests.shared import exported, tiny


@pytest.fixture(scope="module")
def model():
    return exported.draw_weights(tiny.limoe(depth=1, plan=("sparse",)))


# TensorFlow's file system in memory stands for a bucket: Python's own functions do not know it.
@pytest.mark.parametrize("bucket", ["", "ram://bucket"])
def test_a_model_and_its_vocabulary_come_back(model, tmp_path, monkeypatch, bucket):
    monkeypatch.chdir(tmp_path)
    vocabulary = exported.vocabulary(tmp_path)
    path = f"{bucket or tmp_path}/new/model.keras"
    keras_file.write(model, path, vocabulary=vocabulary)
    loaded, held = keras_file.read(path)
    assert held == (tmp_path / "vocabulary.model").read_bytes()
    for value, expected in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
    keras_file.write(model, path)
    assert keras_file.read(path)[1] is None
    assert tf.io.gfile.listdir(path.rpartition("/")[0]) == ["model.keras"]
    here = {"vocabulary.model"} if bucket else {"vocabulary.model", "new"}
    assert {p.name for p in tmp_path.iterdir()} == here


def test_writing_that_fails_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    path.write_text("older")

    def fail(path):
        with open(path, "w") as file:
            file.write("a part")
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        keras_file.write(model, path)
    assert path.read_text() == "older" and len(list(tmp_path.iterdir())) == 1


def test_another_ending_and_a_missing_file_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="`path` must end in .keras"):
        keras_file.write(model, tmp_path / "model.h5")
    with pytest.raises(ValueError, match="`path` must be an existing file"):
        keras_file.read(tmp_path / "none.keras")
