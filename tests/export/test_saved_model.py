"""Writing a SavedModel: from any mesh, whole or not at all, and never over something else."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.export import saved_model
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.train.checkpoint import Checkpoints
from tests.shared import exported, tiny


def test_a_model_of_any_mesh_is_exported_as_its_checkpoint_would_be(tmp_path):
    with tiny.strategy_of(4).scope():
        mesh = ExpertMesh("data:2;expert:2", spans="replicas")
        sharded = tiny.limoe(expert_mesh=mesh)
        sharded.compile("sgd")
    checkpoint = exported.draw_weights(tiny.limoe(), seed=3)
    checkpoint.compile("sgd")
    Checkpoints(checkpoint, tmp_path).save()
    Checkpoints(sharded, tmp_path).restore_latest()
    found = saved_model.dropless_float32(sharded)
    for value, expected in zip(found.get_weights(), checkpoint.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


def test_an_existing_folder_is_left_alone_unless_it_is_an_older_model(tmp_path, monkeypatch):
    model, vocabulary = tiny.limoe(vocabulary_size=exported.PIECES), exported.vocabulary(tmp_path)
    path = tmp_path / "model"
    written = []

    def write(model, vocabulary, path, **options):
        written.append(path)
        tf.io.gfile.makedirs(path)
        tf.io.write_file(f"{path}/saved_model.pb", str(len(written)))

    monkeypatch.setattr(saved_model, "_write", write)
    saved_model.export(model, vocabulary, path)
    with pytest.raises(ValueError, match="`path` must not exist yet. Received: path='.*model'"):
        saved_model.export(model, vocabulary, path)
    assert (path / "saved_model.pb").read_text() == "1"
    saved_model.export(model, vocabulary, path, overwrite=True)
    assert (path / "saved_model.pb").read_text() == "2"
    with pytest.raises(ValueError, match="`path` must be a SavedModel to be overwritten"):
        saved_model.export(model, vocabulary, tmp_path, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "vocabulary.model"]


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    model, vocabulary = tiny.limoe(vocabulary_size=exported.PIECES), exported.vocabulary(tmp_path)

    def fail(model, vocabulary, path, **options):
        tf.io.gfile.makedirs(path)
        raise KeyboardInterrupt

    monkeypatch.setattr(saved_model, "_write", fail)
    with pytest.raises(KeyboardInterrupt):
        saved_model.export(model, vocabulary, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.model"]


def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path):
    vocabulary = exported.vocabulary(tmp_path)
    fitting, other = tiny.limoe(vocabulary_size=exported.PIECES), tiny.limoe(vocabulary_size=41)
    for model, options, error, message in (
        (other, {}, ValueError, "`vocabulary` must have the model's 41 pieces"),
        (fitting, {"templates": ["no place"]}, ValueError, "`templates` must each hold"),
        (fitting, {"templates": []}, ValueError, "`templates` must hold at least one"),
        (fitting, {"templates": "{}"}, TypeError, "`templates` must be a list"),
        (fitting, {"resize": "crop"}, ValueError, "`resize` must be one of"),
        (fitting, {"facts": {"step": object()}}, TypeError, "not JSON serializable"),
    ):
        with pytest.raises(error, match=message):
            saved_model.export(model, vocabulary, tmp_path / "model", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["vocabulary.model"]
