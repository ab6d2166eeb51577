"""The train job on a small run: what it leaves, and what happens when it is started again."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import gin
from limoe_tf.evaluate import tasks
from limoe_tf.train import run_folder
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.run_folder import LOCK_FILE
from tests.shared.small_runs import ROOT, call, the_error
from tpu_jobs import evaluate, experiment, gin_files, train


def numbers(tree, path=""):
    """Yields the names of all numbers in nested dicts."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{path}{key}/")
        else:
            assert isinstance(value, (int, float))
            yield f"{path}{key}"


def test_a_run_leaves_its_results(shapes_run):
    results = json.loads((shapes_run[0] / "results.json").read_text())
    recalls = [f"recall_at_{k}" for k in (1, 5, 10)]
    assert set(numbers(results)) >= {
        *("zero_shot/seen", "zero_shot/unseen", "success_rate/image", "success_rate/text"),
        *(f"retrieval/text_to_image/{recall}" for recall in recalls),
        *(f"retrieval/image_to_text/{recall}" for recall in recalls),
        *("success_rate/block_01/image", "success_rate/block_01/text"),
        *("seconds", "parameters"),
    }
    assert results["step"] == 6
    # Patches of 16 x 16 x 3, positions of 4 x 4 + 16 tokens, 80 words, two heads, the last norm,
    # the temperature; a dense and a sparse block.
    ends = 16 * 16 * 3 * 16 + 16 + (16 + 16) * 16 + 80 * 16 + 2 * 16 * 16 + 2 * 16 + 1
    mlp = 16 * 32 + 32 + 32 * 16 + 16
    blocks = 2 * (4 * 16 * 16 + 4 * 16 + 2 * 2 * 16) + mlp + 8 * mlp + 16 * 8
    assert results["parameters"] == ends + blocks


def test_a_run_leaves_checkpoints_logs_vocabulary_and_configuration(shapes_run):
    folder, _ = shapes_run
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert left >= {"config.gin", "metrics.jsonl", "vocabulary.model", "checkpoints/checkpoint"}
    assert {f"checkpoints/ckpt-{step}.index" for step in (2, 4, 6)} <= left
    assert any(name.startswith("events.out.tfevents") for name in left)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert np.isfinite(line["loss"]) and np.isfinite(line["block_01/global_entropy_text"])
        assert len(line["block_01/tokens_image"]) == 8


def test_the_configuration_left_by_a_run_describes_the_same_run(shapes_run):
    folder, _ = shapes_run
    text = (folder / "config.gin").read_text()
    gin_files.parse([str(folder / "config.gin")], [])
    gin_files.build()
    assert gin.operative_config_str() == text
    gin.clear_config()


def interrupt(model, vocabulary):
    raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_weights(shapes_run, tmp_path):
    whole, bindings = shapes_run
    gin_files.parse([str(ROOT / "gin/runs/quickstart.gin")], bindings)
    run = gin_files.build()
    run.tasks, run.evaluate_every_steps = {"interrupt": interrupt}, 5
    with pytest.raises(KeyboardInterrupt):
        train.train(run, str(tmp_path))
    # So step 5 is done once more.
    assert tf.train.latest_checkpoint(str(tmp_path / "checkpoints")).endswith("ckpt-4")
    assert call(train, ROOT / "gin/runs/quickstart.gin", tmp_path, bindings) == 0
    expected, found = (
        tf.train.load_checkpoint(str(folder / "checkpoints" / "ckpt-6"))
        for folder in (whole, tmp_path)
    )
    names = set(expected.get_variable_to_shape_map()) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    assert any("router/draws" in name for name in names)
    for name in names:
        np.testing.assert_array_equal(found.get_tensor(name), expected.get_tensor(name), name)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_only_evaluates_when_started_again(shapes_run, monkeypatch):
    folder, bindings = shapes_run
    before = json.loads((folder / "results.json").read_text())
    monkeypatch.setattr(experiment.Experiment, "make_vocabulary", None)
    # Copies often leave this file out: what counts are the checkpoints.
    (folder / "checkpoints" / "checkpoint").unlink()
    with pytest.warns(UserWarning, match="checkpoints/checkpoint' is missing; what counts"):
        assert call(train, ROOT / "gin/runs/quickstart.gin", folder, bindings) == 0
    after = json.loads((folder / "results.json").read_text())
    assert (after["zero_shot"], after["step"]) == (before["zero_shot"], 6)
    assert not (folder / "checkpoints" / "ckpt-7.index").exists()


def test_a_task_that_fails_is_named_and_takes_no_other_results(shapes_run, monkeypatch, capsys):
    folder, bindings = shapes_run
    before = json.loads((folder / "results.json").read_text())

    def fail(task, model, vocabulary):
        raise ValueError("No such pictures.")

    monkeypatch.setattr(tasks.ZeroShot, "__call__", fail)
    assert call(train, ROOT / "gin/runs/quickstart.gin", folder, bindings) == 1
    line = "error: These tasks failed, and have no results: zero_shot: No such pictures."
    assert the_error(capsys) == line
    after = json.loads((folder / "results.json").read_text())
    assert after["failed"] == {"zero_shot": "No such pictures."} and "zero_shot" not in after
    assert after["retrieval"] == before["retrieval"]


def contents(folder):
    """The bytes of all files of a run but the lock, which names the process that holds it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_FILE)
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize(
    "line, message",
    [
        ("limoe.Limoe.from_size.num_experts = 16", "must hold the variables of the model"),
        ("experiment.Experiment.seed = 1", "begins with must stay as it was"),
        ("limoe.Limoe.from_size.group_size = 3", "`group_size` must divide the examples"),
        ("STEPS = 4", "`steps` must be at least the 6 that the run"),
    ],
)
def test_a_start_that_does_not_fit_changes_nothing_in_the_folder(shapes_run, line, message, capsys):
    folder, bindings = shapes_run
    before = contents(folder)
    assert call(train, ROOT / "gin/runs/quickstart.gin", folder, [*bindings, line]) == 1
    assert message in the_error(capsys)
    assert contents(folder) == before


def test_what_a_run_has_frozen_stays_frozen(shapes_run, tmp_path, capsys):
    _, bindings = shapes_run
    quickstart = ROOT / "gin/runs/quickstart.gin"
    gin_files.parse([str(quickstart)], [*bindings, "experiment.Experiment.freeze = 'image_embed'"])
    run = gin_files.build()
    gin.clear_config()
    run.model.compile(run.optimizer)
    Checkpoints(run.model, tmp_path / "checkpoints").save()
    assert call(train, quickstart, tmp_path, bindings) == 1
    assert "`freeze` must name what the run has frozen before" in the_error(capsys)


def test_the_checkpoint_of_another_model_is_not_evaluated(shapes_run, capsys):
    folder, bindings = shapes_run
    another = [*bindings, "limoe.Limoe.from_size.hidden_width = 16"]
    assert call(evaluate, ROOT / "gin/runs/quickstart.gin", folder, another) == 1
    assert "The checkpoint must hold the variables of the model" in the_error(capsys)


def test_a_second_run_in_a_folder_and_one_over_lost_checkpoints_are_refused(
    shapes_run, tmp_path, capsys
):
    folder, bindings = shapes_run
    quickstart = ROOT / "gin/runs/quickstart.gin"
    with run_folder.held(folder):
        assert call(train, quickstart, folder, bindings) == 1
    assert "One process at a time may train in a folder" in the_error(capsys)
    for name in ("metrics.jsonl", "vocabulary.model"):
        shutil.copy(folder / name, tmp_path)
    assert call(train, quickstart, tmp_path, bindings) == 1
    assert "without any, in which a run has made 6 steps" in the_error(capsys)
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {
        *("metrics.jsonl", "vocabulary.model", LOCK_FILE)
    }
