"""The commands that the documentation names one after another, each on what the last one left."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

import gin
from limoe_tf.data import words
from limoe_tf.evaluate import results
from limoe_tf.train import names
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.checkpoint_files import nested
from tests.shared import exported, record_files
from tests.shared.small_runs import ROOT, SMALL, call, the_error
from tpu_jobs import (
    analyze,
    average_checkpoints,
    build_vocabulary,
    classify,
    evaluate,
    evaluation,
    export,
    gin_files,
    prune_experts,
    train,
)

GIN_FILE = ROOT / "gin/runs/tfrecord.gin"


@pytest.fixture(scope="module")
def bindings(tmp_path_factory):
    """The bindings of a run that traces fast, on a few pairs."""
    path = record_files.write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", 24)
    return [
        *SMALL,
        f"TRAIN_FILES = '{path}'",
        f"TEST_FILES = '{path}'",
        "STEPS = 2",
        "schedule.Cosine.warmup_steps = 1",
        "experiment.Experiment.checkpoint_every_steps = 1",
        "limoe.Limoe.from_size.image_size = 32",
        "limoe.Limoe.from_size.vocabulary_size = 40",
        "limoe.Limoe.from_size.depth = 1",
        'limoe.Limoe.from_size.plan = ("sparse",)',
    ]


def described(bindings):
    gin_files.parse([str(GIN_FILE)], bindings)
    return gin_files.build()


def of(folder):
    return evaluation.of_run(str(folder)), str(folder)


@pytest.fixture(scope="module")
def old(bindings, tmp_path_factory):
    """The folder of a run as `train` leaves it before its first step."""
    folder = tmp_path_factory.mktemp("old")
    run = described(bindings)
    results.write_text(folder / "config.gin", gin.operative_config_str())
    run.make_vocabulary(str(folder))
    run.load_vocabulary(str(folder))
    exported.draw_weights(run.model).compile(run.optimizer)
    Checkpoints(run.model, folder / "checkpoints").save()
    return folder


@pytest.fixture(scope="module")
def keras_file(old, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "model.keras"
    export.export(*of(old), str(path), form="keras")
    return path


@pytest.fixture(scope="module")
def new(bindings, keras_file, tmp_path_factory):
    """The folder of a run that is made of the file; nothing else names its vocabulary."""
    folder = tmp_path_factory.mktemp("new") / "run"
    export.from_keras(described(bindings), str(folder), str(keras_file))
    return folder


@pytest.fixture(scope="module")
def trained(bindings, new, tmp_path_factory):
    """The run after `train`, and the mean of its checkpoints of steps 1 and 2."""
    folder = shutil.copytree(new, tmp_path_factory.mktemp("trained") / "run")
    bindings = [*bindings, "experiment.Experiment.average_last = 2"]
    assert call(train, GIN_FILE, folder, bindings) == 0
    return folder, average_checkpoints.run(str(folder), last=2, output=f"{folder}/mean/ckpt")


def evaluated(folder, **flags):
    assert call(evaluate, None, folder, [], gin_file=[], **flags) == 0
    return json.loads((folder / "evaluation.json").read_text())


def test_a_run_made_of_a_keras_file_evaluates_as_the_run_that_the_file_is_of(old, new):
    assert {path.name for path in new.iterdir()} == {
        "checkpoints",
        "config.gin",
        "vocabulary.model",
    }
    expected, found = evaluated(old), evaluated(new)
    assert found["retrieval"] == expected["retrieval"]
    hashes = found["to_repeat"]["companions"]
    assert hashes == expected["to_repeat"]["companions"] and set(hashes) == {"vocabulary"}


def test_a_run_made_of_a_keras_file_is_analyzed_and_exported_again(new, keras_file, tmp_path):
    assert pathlib.Path(analyze.analyze(*of(new), output=str(tmp_path))).exists()
    export.export(*of(new), str(tmp_path / "again.keras"), form="keras")
    assert (tmp_path / "again.keras").stat().st_size == keras_file.stat().st_size


def test_training_goes_on_from_the_weights_of_a_keras_file(new, trained):
    folder, _ = trained
    assert json.loads((folder / "results.json").read_text())["step"] == 2
    name = "vocabulary.model"
    assert (folder / name).read_bytes() == (new / name).read_bytes()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]


def test_a_mean_of_checkpoints_is_evaluated_like_the_one_that_training_leaves(trained):
    folder, mean = trained
    averaged = str(folder / "averaged" / "ckpt-2-mean-of-2")
    found = evaluated(folder, checkpoint=mean)
    assert found["step"] == 2 and "vocabulary" in found["to_repeat"]["companions"]
    assert evaluated(folder, checkpoint=averaged)["retrieval"] == found["retrieval"]


def test_a_mean_of_checkpoints_is_exported_and_classifies(trained, tmp_path, capsys):
    folder, mean = trained
    export.export(*of(folder), str(tmp_path / "model"), checkpoint=mean)
    picture = exported.write_png(tmp_path / "a.png", 1)
    classify.run(str(tmp_path / "model"), [picture], ["image one", "image two"])
    assert "image one" in capsys.readouterr().out


def test_a_mean_of_checkpoints_is_pruned(trained, tmp_path):
    folder, mean = trained
    options = {"modality": "text", "checkpoint": mean}
    found = prune_experts.run(*of(folder), str(tmp_path), **options)
    assert found["before"]["retrieval"].keys() == found["after"]["retrieval"].keys()


@pytest.fixture
def swapped(new, tmp_path):
    """The run with another vocabulary of the same size."""
    folder = shutil.copytree(new, tmp_path / "run")
    captions = ["quick zebra vivid wax jumping over fox lazy box judge my vow"]
    words.train_vocabulary(captions, path=f"{folder}/vocabulary.model", size=40, algorithm="bpe")
    return folder


WRONG = "Weights must meet the vocabulary with which they were trained, and no other"


def test_every_command_refuses_weights_with_another_vocabulary(
    swapped, bindings, keras_file, tmp_path, capsys
):
    assert call(train, GIN_FILE, swapped, bindings) == 1
    assert WRONG in the_error(capsys)
    assert call(evaluate, None, swapped, [], gin_file=[]) == 1
    assert WRONG in the_error(capsys)
    output = str(tmp_path / "output")
    for command in (
        lambda: export.export(*of(swapped), output),
        lambda: export.export(*of(swapped), f"{output}.keras", form="keras"),
        lambda: analyze.analyze(*of(swapped), output=output),
        lambda: prune_experts.run(*of(swapped), output, modality="image"),
    ):
        with pytest.raises(ValueError, match=WRONG):
            command()
    shutil.rmtree(swapped / "checkpoints")
    with pytest.raises(ValueError, match=WRONG):
        export.from_keras(described(bindings), str(swapped), str(keras_file))
    assert not (swapped / "checkpoints").exists() and list(tmp_path.iterdir()) == [swapped]


def test_weights_never_get_a_new_vocabulary(new, bindings, tmp_path, capsys):
    folder = shutil.copytree(new, tmp_path / "run")
    (folder / "vocabulary.model").unlink()
    assert call(train, GIN_FILE, folder, bindings) == 1
    line = the_error(capsys)
    assert "The vocabulary with which weights were trained must be in the folder" in line
    assert not (folder / "vocabulary.model").exists()
    path = str(new / "vocabulary.model")
    with pytest.raises(ValueError, match="The vocabulary of a run with checkpoints must stay"):
        build_vocabulary.build(None, path=path, size=40, overwrite=True)


def test_a_checkpoint_that_knows_no_vocabulary_is_read_with_a_word(old, bindings, tmp_path, capsys):
    folder = shutil.copytree(old, tmp_path / "run")
    run = described(bindings)
    run.model.compile(run.optimizer)
    Checkpoints(run.model, folder / "checkpoints").restore_latest()
    state = {name: variable.value for name, variable in names.of_state(run.model).items()}
    tf.train.Checkpoint(**nested(state)).write(str(folder / "checkpoints" / "ckpt-0"))
    assert np.isfinite(evaluated(folder)["retrieval"]["text_to_image"]["recall_at_1"])
    assert "ckpt-0 does not say what its vocabulary was" in capsys.readouterr().out
