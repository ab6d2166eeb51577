import json
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

import gin
import record_files
from limoe_tf.data import shapes
from limoe_tf.train import steps
from limoe_tf.train.callbacks import read_records
from limoe_tf.train.steps import updates
from small_runs import ROOT, SMALL, call, the_error
from tpu_jobs import evaluate, experiment, gin_files, train

EVERY_SECOND_STEP = [
    f"experiment.Experiment.{name} = 2"
    for name in ("steps_per_execution", "log_every_steps", "checkpoint_every_steps")
]


@pytest.fixture(scope="module")
def shapes_run(tmp_path_factory):
    """Trains quickstart.gin on a few shapes; returns the folder of the run and its bindings."""
    folder = tmp_path_factory.mktemp("shapes")
    bindings = [*SMALL, f"sources.TfdsSource.data_dir = {json.dumps(str(folder))}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SPLITS", {"train": 60, "validation": 5, "test": 30})
        assert call(train, ROOT / "gin/runs/quickstart.gin", folder / "run", bindings) == 0
    return folder / "run", bindings


def numbers(tree, path=""):
    """Yields the names of all numbers in nested dicts."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{path}{key}/")
        else:
            assert isinstance(value, (int, float))
            yield f"{path}{key}"


def flat(tree):
    """Returns nested dicts as one, of numbers by path."""
    leaves = {}
    for key, value in tree.items():
        below = flat(value) if isinstance(value, dict) else {"": value}
        leaves.update({f"{key}/{path}": number for path, number in below.items()})
    return leaves


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
    folder, bindings = shapes_run
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
    assert call(train, ROOT / "gin/runs/quickstart.gin", folder, bindings) == 0
    after = json.loads((folder / "results.json").read_text())
    assert (after["zero_shot"], after["step"]) == (before["zero_shot"], 6)
    assert not (folder / "checkpoints" / "ckpt-7.index").exists()


def test_the_checkpoint_of_another_model_is_an_error(shapes_run, capsys):
    folder, bindings = shapes_run
    another = [*bindings, "limoe.Limoe.from_size.hidden_width = 16"]
    for job in (train, evaluate):
        assert call(job, ROOT / "gin/runs/quickstart.gin", folder, another) == 1
        assert "The checkpoint must hold the variables of the model" in the_error(capsys)


def test_a_checkpoint_that_is_not_there_is_an_error(shapes_run, capsys):
    folder, bindings = shapes_run
    missing = str(folder / "ckpt-7")
    quickstart = ROOT / "gin/runs/quickstart.gin"
    assert call(evaluate, quickstart, folder, bindings, checkpoint=missing) == 1
    assert f"Cannot read checkpoint '{missing}'" in the_error(capsys)


def train_on(replicas, folder, bindings):
    # Otherwise collectives of one process refuse a strategy with another number of devices.
    tf.distribute.MirroredStrategy._collective_key_base += 1000
    return call(train, ROOT / "gin/runs/quickstart.gin", folder, bindings, replicas=replicas)


@pytest.fixture(scope="module")
def of_one_replica(shapes_run, tmp_path_factory):
    """Trains one replica in groups that several could have; returns folder and bindings."""
    folder = tmp_path_factory.mktemp("one")
    bindings = [*shapes_run[1], "limoe.Limoe.from_size.group_size = 2", *EVERY_SECOND_STEP]
    assert train_on(1, folder, bindings) == 0
    return folder, bindings


def assert_ends_equal(one, another):
    """Weights within 1e-4 and losses within a share of 1e-4 of each other, after six steps."""
    expected, found = (
        tf.train.load_checkpoint(str(folder / "checkpoints" / "ckpt-6"))
        for folder in (one, another)
    )
    shapes_of = expected.get_variable_to_shape_map()
    assert found.get_variable_to_shape_map() == shapes_of
    for name in set(shapes_of) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}:
        if "key/bias" not in name and name.startswith("model/"):
            value = expected.get_tensor(name)
            np.testing.assert_allclose(found.get_tensor(name), value, atol=1e-4, err_msg=name)
    expected, found = (read_records(str(folder / "metrics.jsonl")) for folder in (one, another))
    assert [r["step"] for r in found] == [r["step"] for r in expected]
    np.testing.assert_allclose([r["loss"] for r in found], [r["loss"] for r in expected], rtol=1e-4)


def test_replicas_that_share_the_experts_train_and_evaluate_as_one(of_one_replica, tmp_path):
    one, bindings = of_one_replica
    assert train_on(4, tmp_path, bindings) == 0
    assert_ends_equal(one, tmp_path)
    # One device evaluates what four have trained.
    assert call(evaluate, ROOT / "gin/runs/quickstart.gin", tmp_path, bindings) == 0
    trained = json.loads((tmp_path / "results.json").read_text())
    evaluated = json.loads((tmp_path / "evaluation.json").read_text())
    for name in ("zero_shot", "retrieval"):
        found, expected = flat(evaluated[name]), flat(trained[name])
        assert set(found) == set(expected)
        for path, number in found.items():
            # Rounding may swap two neighbours in rank: one image of 30 at most, which may be the
            # only one of its class, of ten or more, and a place for the median.
            room = {"median_rank": 1.0, "mean_per_class": 0.1}
            atol = next((room[kind] for kind in room if kind in path), 0.034)
            assert number == pytest.approx(expected[path], abs=atol), path


def test_a_stopped_run_goes_on_with_more_replicas_as_one_would(
    of_one_replica, tmp_path, monkeypatch
):
    one, bindings = of_one_replica
    make = train._callbacks

    def stopping(experiment, *others):
        def stop(batch, logs):
            if steps.updates(experiment.model) < 6:
                signal.raise_signal(signal.SIGTERM)

        return [*make(experiment, *others), keras.callbacks.LambdaCallback(on_train_batch_end=stop)]

    monkeypatch.setattr(train, "_callbacks", stopping)
    for replicas, step in ((1, 2), (2, 4)):
        with pytest.raises(SystemExit):
            train_on(replicas, tmp_path, bindings)
        latest = tf.train.latest_checkpoint(str(tmp_path / "checkpoints"))
        assert latest.endswith(f"ckpt-{step}")
    assert train_on(4, tmp_path, bindings) == 0
    assert_ends_equal(one, tmp_path)
