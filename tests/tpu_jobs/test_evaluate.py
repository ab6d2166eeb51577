"""The evaluate job on a small run."""

import json
import shutil

import pytest
import tensorflow as tf

from tests.shared import record_files
from tests.shared.small_runs import ROOT, call, flat, the_error
from tpu_jobs import evaluate


def test_evaluation_gives_the_numbers_of_the_end_of_training(shapes_run):
    folder, bindings = shapes_run
    assert call(evaluate, ROOT / "gin/runs/quickstart.gin", folder, bindings) == 0
    trained = json.loads((folder / "results.json").read_text())
    evaluated = json.loads((folder / "evaluation.json").read_text())
    for name in ("zero_shot", "retrieval", "success_rate", "step"):
        assert evaluated[name] == trained[name]


def test_the_folder_of_a_run_is_enough_to_evaluate_it(shapes_run):
    folder, _ = shapes_run
    assert call(evaluate, None, folder, [], gin_file=[]) == 0
    trained = json.loads((folder / "results.json").read_text())
    evaluated = json.loads((folder / "evaluation.json").read_text())
    for name in ("zero_shot", "retrieval", "success_rate", "step"):
        assert evaluated[name] == trained[name]
    rows = (folder / "evaluation.md").read_text().splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert ["zero_shot/seen_top_5", f"{trained['zero_shot']['seen_top_5']:.4f}"] in cells


def test_an_evaluation_says_how_to_repeat_it_and_writes_events(shapes_run, tmp_path):
    folder, _ = shapes_run
    older = str(folder / "checkpoints" / "ckpt-4")
    (event_folder := folder / "evaluation").exists() and shutil.rmtree(event_folder)
    assert call(evaluate, None, folder, [], gin_file=[], checkpoint=older) == 0
    evaluated = json.loads((folder / "evaluation.json").read_text())
    how = evaluated["to_repeat"]
    assert (how["checkpoint"], evaluated["step"]) == (older, 4)
    assert how["packages"]["tensorflow"] == tf.__version__ and "git_commit" in how
    assert "limoe.Limoe.from_size.hidden_width = 32" in how["gin"]["run"]
    task = how["tasks"]["zero_shot"]
    assert task["task"] == "ZeroShot"
    assert task["templates"] == ["a {}", "a picture of a {}", "a drawing of a {}"]
    assert len(task["class_names"]) == 48
    assert task["source"]["name"] == "captioned_shapes/test"
    assert "/captioned_shapes/1.0.0" in task["source"]["folder"]
    read = {"images": 30, "captions": 0, "bad_records": "no bad records"}
    assert task["read"] == {"captioned_shapes/test": read}
    (path,) = event_folder.iterdir()
    events = tf.compat.v1.train.summary_iterator(str(path))
    values = {value.tag: (event.step, tf.make_ndarray(value.tensor))
              for event in events for value in event.summary.value}  # fmt: skip
    assert set(flat({k: evaluated[k] for k in ("zero_shot", "retrieval", "success_rate")})) == {
        f"{name}/" for name in values
    }
    assert values["zero_shot/seen"] == (4, pytest.approx(evaluated["zero_shot"]["seen"]))


def test_tasks_of_a_gin_file_evaluate_the_model_of_an_earlier_run(shapes_run, tmp_path, capsys):
    folder, _ = shapes_run
    files = record_files.write_pairs(tmp_path / "pairs", 12)
    emoji = [
        record_files.example(png=record_files.jpeg(i), name=f"thing {i}".encode()) for i in range(5)
    ]
    (tmp_path / "names.txt").write_text("red\ngreen\nblue\n", "utf-8")
    given = {
        "EMOJI": record_files.write(tmp_path / "emoji", emoji),
        "CIFAR10_NAMES": str(tmp_path / "names.txt"),
        **dict.fromkeys(("FLICKR8K", "CIFAR10_TRAIN", "CIFAR10_TEST"), files),
    }
    bindings = [f"{name} = {json.dumps(value)}" for name, value in given.items()]
    bindings += ["few_shot.FewShot.shots = (1, 3)"]
    path = ROOT / "gin/evaluate/three_sets.gin"
    assert call(evaluate, path, folder, bindings) == 0
    evaluated = json.loads((folder / "evaluation.json").read_text())
    assert set(evaluated) == {
        *("flickr8k", "flickr8k_minibatches", "cifar10", "cifar10_few_shot", "emoji"),
        *("step", "seconds", "to_repeat"),
    }
    assert set(evaluated["cifar10_few_shot"]) == {
        *("1_shot", "1_shot_std", "3_shot", "3_shot_std"),
    }
    assert "three" not in evaluated["to_repeat"]["gin"]["run"]
    assert "shots = (1, 3)" in evaluated["to_repeat"]["gin"]["tasks"]
    assert (
        f"emoji: 5 images, 5 captions, no bad records: {given['EMOJI']}" in capsys.readouterr().out
    )
    # A line without a use, and a folder of no run.
    assert call(evaluate, path, folder, [*bindings, "LEFT_OVER = 3"]) == 1
    assert the_error(capsys) == (
        "error: Every line of a gin file must have a use. Received: LEFT_OVER"
    )
    assert call(evaluate, path, tmp_path, bindings) == 1
    assert the_error(capsys).startswith("error: `workdir` must be the folder of a run, with its")


def test_an_older_checkpoint_can_be_evaluated(shapes_run):
    folder, bindings = shapes_run
    older = str(folder / "checkpoints" / "ckpt-2")
    assert call(evaluate, ROOT / "gin/runs/quickstart.gin", folder, bindings, checkpoint=older) == 0
    assert json.loads((folder / "evaluation.json").read_text())["step"] == 2


def test_a_checkpoint_that_is_not_there_is_an_error(shapes_run, capsys):
    folder, bindings = shapes_run
    missing = str(folder / "ckpt-7")
    quickstart = ROOT / "gin/runs/quickstart.gin"
    assert call(evaluate, quickstart, folder, bindings, checkpoint=missing) == 1
    assert f"Cannot read checkpoint '{missing}'" in the_error(capsys)
