"""A small run of VL-MoE is fine-tuned, cut off and gone on, and evaluated."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.shared.small_runs import ROOT, call, few_questions, the_error
from tpu_jobs import evaluate, finetune, gin_files, train

QUESTIONS = ROOT / "gin/finetune/grid_questions.gin"


@pytest.fixture(scope="module")
def run(vlmoe_run, tmp_path_factory):
    """The folders of the pretrained and of the fine-tuned run, and the lines of gin."""
    pretrained, lines = vlmoe_run
    folder = tmp_path_factory.mktemp("questions")
    with few_questions(folder / "data", lines) as bindings:
        # The file trains them.
        bindings = [*bindings, "questions.QuestionModel.freeze_experts = True"]
        code = call(finetune, QUESTIONS, folder / "run", bindings, pretrained=str(pretrained))
        assert code == 0
    return pretrained, folder / "run", bindings


def stored(folder, step):
    reader = tf.train.load_checkpoint(str(folder / "checkpoints" / f"ckpt-{step}"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("model/")]
    return {name.split("/.ATTR")[0]: reader.get_tensor(name) for name in names}


def test_the_backbone_begins_with_the_run_and_experts_stay_as_they_were(run):
    pretrained, folder, _ = run
    before, first, last = stored(pretrained, 4), stored(folder, 0), stored(folder, 4)
    backbone = [name for name in first if name.startswith("model/backbone/")]
    assert len(backbone) > 50
    changed = set()
    for name in backbone:
        own = before[name.replace("backbone/", "")]
        np.testing.assert_array_equal(first[name], own, err_msg=name)
        if not np.array_equal(last[name], own):
            changed.add(name)
    assert changed and not [n for n in changed if "/experts/" in n or "/router/kernel" in n]
    assert (folder / "vocabulary.model").read_bytes() == (
        pretrained / "vocabulary.model"
    ).read_bytes()


def test_results_are_those_of_the_task_and_evaluate_finds_them_again(run):
    _, folder, bindings = run
    results = json.loads((folder / "results.json").read_text())
    assert 0 <= results["questions"]["score"] <= 1
    assert call(evaluate, QUESTIONS, folder, bindings) == 0
    again = json.loads((folder / "evaluation.json").read_text())
    assert again["questions"] == results["questions"]


def interrupt(model, vocabulary):
    raise KeyboardInterrupt


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(run, tmp_path):
    pretrained, whole, bindings = run
    begins = f"tpu_jobs.experiment.Experiment.init_backbone = {str(pretrained)!r}"
    gin_files.parse([str(QUESTIONS)], [*bindings, begins])
    cut = gin_files.build()
    cut.tasks, cut.evaluate_every_steps = {"interrupt": interrupt}, 3
    with pytest.raises(KeyboardInterrupt):
        train.train(cut, str(tmp_path))
    assert call(finetune, QUESTIONS, tmp_path, bindings, pretrained=str(pretrained)) == 0
    expected = stored(whole, 4)
    for name, value in stored(tmp_path, 4).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_where_a_run_begins_must_be_said(run, tmp_path, capsys):
    _, _, bindings = run
    assert call(finetune, QUESTIONS, tmp_path, bindings) == 1
    assert "--pretrained must be given" in the_error(capsys)
    missing = tmp_path / "missing"
    assert call(finetune, QUESTIONS, tmp_path / "run", bindings, pretrained=str(missing)) == 1
    assert str(missing) in the_error(capsys)


def test_a_backbone_is_for_models_that_have_one(run, tmp_path):
    pretrained, _, _ = run
    lines = [f"experiment.Experiment.init_backbone = {str(pretrained)!r}"]
    gin_files.parse([str(ROOT / "gin/runs/quickstart.gin")], lines)
    with pytest.raises(ValueError, match="`init_backbone` must be for a model of limoe_tf.down"):
        gin_files.build()
