"""A run that begins with the weights of another: larger images, more experts; started again."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.shared.small_runs import ROOT, call, the_error
from tpu_jobs import experiment, train

QUICKSTART = ROOT / "gin/runs/quickstart.gin"
LARGER = [
    "STEPS = 1",
    "schedule.Cosine.warmup_steps = 0",
    "limoe.Limoe.from_size.image_size = 96",
    "limoe.Limoe.from_size.num_experts = 16",
    "experiment.Experiment.init_noise = 0.1",
]


def begins_with(path, *lines):
    return [f"experiment.Experiment.init_from = {json.dumps(str(path))}", *lines]


def reader(folder, step):
    return tf.train.load_checkpoint(str(folder / "checkpoints" / f"ckpt-{step}"))


def test_a_run_begins_with_another_and_goes_on_from_its_own(
    shapes_run, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(experiment.Experiment, "run_tasks", lambda *_: {})
    first, bindings = shapes_run
    source = shutil.copytree(first, tmp_path / "source")
    words = f"experiment.Experiment.vocabulary = {json.dumps(str(first / 'vocabulary.model'))}"
    given = [*bindings, *LARGER, *begins_with(source, words)]
    folder = tmp_path / "run"
    assert call(train, QUICKSTART, folder, given) == 0
    out = capsys.readouterr().out
    assert f"The run begins with {source}\n  image positions: 16 to 36, interpolated\n" in out
    assert "block_01/moe: experts [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7] of 8" in out
    assert "starting at step 0" in out
    begun, saved = reader(folder, 0), reader(source, 6)
    for name in saved.get_variable_to_shape_map():
        if name.startswith("model/encoder/block_00/"):
            np.testing.assert_array_equal(begun.get_tensor(name), saved.get_tensor(name), name)
    shutil.rmtree(source)
    assert call(train, QUICKSTART, folder, given) == 0
    out = capsys.readouterr().out
    assert "starting at step 1" in out and "The run begins" not in out


@pytest.mark.parametrize(
    "lines, message",
    [
        (["limoe.Limoe.from_size.width = 32"], "What a model begins with must match it"),
        (["experiment.Experiment.init_optimizer = True"], "`steps` must be more than the 6"),
        ([], "must be in the folder of the run, or named by experiment.Experiment.vocabulary"),
    ],
)
def test_what_a_run_cannot_begin_with_is_named_and_leaves_nothing(
    shapes_run, tmp_path, lines, message, capsys
):
    first, bindings = shapes_run
    given = [*bindings, *begins_with(first, *lines)]
    assert call(train, QUICKSTART, tmp_path, given) == 1
    assert message in the_error(capsys)
    assert not list(tmp_path.glob("checkpoints/*")) and not (tmp_path / "config.gin").exists()


def test_options_of_what_a_run_begins_with_come_with_it(shapes_run, tmp_path, capsys):
    given = [*shapes_run[1], "experiment.Experiment.init_optimizer = True"]
    assert call(train, QUICKSTART, tmp_path, given) == 1
    assert "`init_optimizer` and `init_noise` must come with init_from" in the_error(capsys)


def test_a_run_with_checkpoints_cannot_begin_anew(shapes_run, tmp_path, capsys):
    folder, bindings = shapes_run
    assert call(train, QUICKSTART, folder, [*bindings, *begins_with(tmp_path)]) == 1
    assert "What a run begins with must stay as it was" in the_error(capsys)
