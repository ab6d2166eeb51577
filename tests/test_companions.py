"""What belongs together knows it: weights, in whatever form, and their vocabulary."""

import types

import keras
import pytest
import tensorflow as tf

from limoe_tf import companions
from limoe_tf.evaluate import prune
from limoe_tf.evaluate.embed import text_encoder
from limoe_tf.export import saved_model
from limoe_tf.train import names
from limoe_tf.train.average import average
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.checkpoint_files import nested
from tests.shared import exported, tiny


def file(sha256, path="words.model"):
    return types.SimpleNamespace(sha256=sha256, path=path)


def model_with(sha256, **options):
    """A compiled model that belongs with a vocabulary, with none if its hash is None."""
    model = tiny.limoe(depth=1, plan=("sparse",), **options)
    model.compile("sgd")
    if sha256:
        companions.join(model, vocabulary=file(sha256))
    return model


def test_a_model_meets_one_file_of_a_name_and_no_other():
    model = model_with("ab")
    companions.join(model, codes=file("ef"))
    companions.join(model, vocabulary=file("ab"))
    assert companions.of(model) == {"vocabulary": "ab", "codes": "ef"}
    for meet in (companions.check, companions.join):
        with pytest.raises(ValueError, match="'b.model' with vocabulary SHA-256 cd, .* has ab"):
            meet(model, vocabulary=file("cd", "b.model"))
    # What has no hash is not compared, nor is what has no companions.
    companions.check(model, vocabulary=lambda captions: captions)
    companions.check(object(), vocabulary=file("cd"))


def test_a_keras_file_and_a_smaller_model_keep_what_the_model_belongs_with(tmp_path):
    model = model_with("ab")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    smaller = prune.pruned(model, modality="text", kept={0: [1]})
    both = prune.combined(model, smaller, modality="text")
    for kept in (loaded, smaller, both, saved_model.dropless_float32(model)):
        assert companions.of(kept) == {"vocabulary": "ab"}
    assert "companions" not in tiny.limoe().get_config()


def test_a_checkpoint_brings_its_hashes_or_is_refused_where_there_are_others(tmp_path):
    path = Checkpoints(model_with("ab"), tmp_path).save()
    fresh, another = model_with(None), model_with("cd")
    assert Checkpoints(fresh, tmp_path).restore_latest() == 0
    assert companions.of(fresh) == {"vocabulary": "ab"}
    before = another.get_weights()
    for weights_only in (False, True):
        with pytest.raises(ValueError, match="the weights of .*ckpt-0' with vocabulary SHA-256 ab"):
            Checkpoints(another, tmp_path, weights_only=weights_only).restore(path)
    for value, expected in zip(another.get_weights(), before, strict=True):
        assert (value == expected).all()


def test_a_checkpoint_without_hashes_is_read_and_nothing_compared(tmp_path):
    model = model_with("ab")
    state = {name: variable.value for name, variable in names.of_state(model).items()}
    path = tf.train.Checkpoint(**nested(state)).write(str(tmp_path / "ckpt-0"))
    assert Checkpoints(model, tmp_path).restore(path) == 0
    assert companions.of(model) == {"vocabulary": "ab"}
    fresh = model_with(None)
    assert Checkpoints(fresh, tmp_path).restore(path) == 0
    assert companions.of(fresh) == {}


def test_what_a_run_keeps_beside_the_model_may_be_missing_in_a_checkpoint(tmp_path):
    model, left_out = model_with(None), tf.Variable("[]")
    Checkpoints(model, tmp_path).save()
    left_out.assign("[1]")
    assert Checkpoints(model, tmp_path, others={"run/left_out": left_out}).restore_latest() == 0
    assert left_out.numpy() == b"[1]"


def test_checkpoints_are_averaged_with_what_they_belong_with_if_it_is_the_same(tmp_path):
    paths = [Checkpoints(model_with(h), tmp_path / str(h)).save() for h in ("ab", "cd", None)]
    with pytest.raises(ValueError, match="cd/ckpt-0' with vocabulary SHA-256 cd, .* has ab"):
        average(paths, tmp_path / "mean")
    assert not (tmp_path / "mean.index").exists()
    fresh = model_with(None)
    written = average([paths[0], paths[2]], tmp_path / "mean")
    Checkpoints(fresh, tmp_path / "other", weights_only=True).restore(written)
    assert companions.of(fresh) == {"vocabulary": "ab"}


def test_texts_and_exports_meet_the_vocabulary_of_the_weights_alone(tmp_path):
    vocabulary = exported.vocabulary(tmp_path)
    model = model_with("ab", vocabulary_size=exported.PIECES)
    with pytest.raises(ValueError, match=f"SHA-256 {vocabulary.sha256}, where the model has ab"):
        text_encoder(model, vocabulary)
    with pytest.raises(ValueError, match=f"SHA-256 {vocabulary.sha256}, where the model has ab"):
        saved_model.export(model, vocabulary, tmp_path / "model")
    assert not (tmp_path / "model").exists()
