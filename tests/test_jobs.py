import json
import os
import pathlib
import re
import subprocess
import sys

import gin
import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from absl.testing import flagsaver

import record_files
from limoe_tf.data import shapes, words
from tpu_jobs import evaluate, experiment, train

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = [
    "BATCH_SIZE = 8",
    "STEPS = 6",
    "schedule.Cosine.warmup_steps = 2",
    "limoe.Limoe.from_size.width = 16",
    "limoe.Limoe.from_size.hidden_width = 32",
    "limoe.Limoe.from_size.depth = 2",
    'limoe.Limoe.from_size.plan = ("dense", "sparse")',
    "limoe.Limoe.from_size.vocabulary_size = 80",
    "experiment.Experiment.log_every_steps = 1",
    "experiment.Experiment.checkpoint_every_steps = 2",
    # So that drawn numbers take part in what an interruption must not change.
    "batches.training_batches.crop = 'random_resized_crop'",
    "batches.training_batches.flip = True",
]


def call(job, path, workdir, bindings):
    """Calls a job's main function with flags in place of the command line's; returns its code."""
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["job"])
    with flagsaver.flagsaver(gin_file=[str(path)], gin_param=bindings, workdir=str(workdir)):
        code = job.main(["job"])
    gin.clear_config()
    return code


@pytest.fixture(scope="module")
def shapes_run(tmp_path_factory):
    """Trains quickstart.gin on a few shapes; returns the folder of the run and its bindings."""
    folder = tmp_path_factory.mktemp("shapes")
    bindings = [*SMALL, f"sources.TfdsSource.data_dir = {json.dumps(str(folder))}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SPLITS", {"train": 60, "validation": 5, "test": 30})
        assert call(train, ROOT / "gin/runs/quickstart.gin", folder / "run", bindings) == 0
    return folder / "run", bindings


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Returns the bindings with which tfrecord.gin trains on a small file."""
    path = record_files.write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", 40)
    return [*SMALL, *files(path), "limoe.Limoe.from_size.image_size = 32", vocabulary_size(40)]


def files(train_files, test_files=None):
    return [f"TRAIN_FILES = '{train_files}'", f"TEST_FILES = '{test_files or train_files}'"]


def vocabulary_size(size):
    return f"limoe.Limoe.from_size.vocabulary_size = {size}"


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
    # Patches 8 x 8 x 3 x 16 + 16, positions (64 + 16) x 16, words 80 x 16, two heads 2 x 16 x 16,
    # last norm 2 x 16, temperature 1.
    ends = 8 * 8 * 3 * 16 + 16 + 80 * 16 + 80 * 16 + 2 * 16 * 16 + 2 * 16 + 1
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
    experiment.parse([str(folder / "config.gin")], [])
    experiment.build()
    assert gin.operative_config_str() == text
    gin.clear_config()


def test_evaluation_gives_the_numbers_of_the_end_of_training(shapes_run):
    folder, bindings = shapes_run
    assert call(evaluate, ROOT / "gin/runs/quickstart.gin", folder, bindings) == 0
    trained = json.loads((folder / "results.json").read_text())
    evaluated = json.loads((folder / "evaluation.json").read_text())
    for name in ("zero_shot", "retrieval", "success_rate", "step"):
        assert evaluated[name] == trained[name]


def interrupt(model, vocabulary):
    raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_weights(shapes_run, tmp_path):
    whole, bindings = shapes_run
    experiment.parse([str(ROOT / "gin/runs/quickstart.gin")], bindings)
    run = experiment.build()
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


@pytest.fixture
def error_of(tmp_path, pairs, capsys):
    """Runs a job that must fail; returns the one line that it prints."""

    def error_of(*bindings, job=train, workdir=tmp_path):
        assert call(job, ROOT / "gin/runs/tfrecord.gin", workdir, [*pairs, *bindings]) == 1
        return the_error(capsys)

    return error_of


def the_error(capsys):
    """Returns the line of error, less lines of TensorFlow's own."""
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_a_missing_gin_file_is_one_line_and_exit_code_1(tmp_path):
    command = [sys.executable, "-m", "tpu_jobs.train", "--gin_file=no.gin", f"--workdir={tmp_path}"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: `gin_file` must be an existing file. Received: gin_file='no.gin'\n"


@pytest.mark.parametrize(
    "line, expected",
    [
        ("limoe.Limoe.from_size.num_expert = 4", "Unrecognized keyword.*{'num_expert': 4}"),
        ("limoe.Limo.from_size.width = 4", "No configurable matching 'limoe.Limo.from_size'"),
        ("batches.training_batches.crob = 'resize'", "doesn't have a parameter named 'crob'"),
        ("experiment.Experiment.steps = %STEP", "No bindings specified for 'STEP'"),
        ("TEST_FILES = %gin.REQUIRED", "TEST_FILES set to `%gin.REQUIRED` but not .* overridden"),
        ("STEP = 4", "Every line of a gin file must have a use. Received: STEP"),
        ("train/sources.TfrecordSource.pattern = 'a/*'", "must match at least one file.*'a/\\*'"),
        ("limoe.Limoe.from_size.size = 'XXL'", "`size` must be one of 'tiny'.* size='XXL'"),
        ("limoe.Limoe.from_size.num_choices = 9", "between 1 and num_experts=8.*num_choices=9"),
        ("limoe.Limoe.from_size.image_size = 40", "multiple of `patch_size`.*image_size=40, patch_size=16"),
        ("limoe.Limoe.from_size.group_size = 3", "`group_size` must divide .*group_size=3"),
        ("experiment.Experiment.loss_weights = {'zz': 1}", "`loss_weights` must name losses"),
        ("BATCH_SIZE = 0", "`batch_size` must be at least 1. Received: batch_size=0"),
        ("BATCH_SIZE = 4096", "`shuffle_window` must be at least 4096"),
    ],
)
def test_a_wrong_line_of_a_gin_file_is_one_line_of_error(line, expected, error_of):
    message = error_of(line)
    assert re.match(f"error: .*{expected}", message), message


def test_a_vocabulary_of_another_size_is_an_error(error_of, tmp_path):
    path = str(tmp_path / "words.model")
    words.train_vocabulary(["red circle", "blue star"], path=path, size=20, algorithm="bpe")
    line = error_of(f"experiment.Experiment.vocabulary = '{path}'")
    assert "must have the model's vocabulary_size=40 pieces" in line and "with 20" in line


def test_too_many_bad_records_in_training_are_an_error(error_of, tmp_path):
    broken = [
        record_files.example(jpg=b"no image", caption=b"image 1 caption 0") if i % 2 else
        record_files.example(jpg=record_files.jpeg(i), caption=f"image {i} caption 0".encode())
        for i in range(40)
    ]  # fmt: skip
    path = record_files.write(tmp_path / "broken", broken)
    limits = ["bad_records.BadRecords.max_share = 0.3", "bad_records.BadRecords.min_records = 10"]
    line = error_of(*files(path), vocabulary_size(30), *limits)
    assert line.startswith("error: At most a share of 0.3 of the records may be bad. Received: ")
    assert "image cannot be decoded" in line


def test_no_sound_record_in_the_test_set_is_an_error(error_of, pairs, tmp_path):
    broken = [record_files.example(jpg=b"no image", caption=b"image 1 caption 0")] * 10
    good = pairs[len(SMALL)].split("'")[1]
    path = record_files.write(tmp_path / "broken", broken)
    line = error_of(*files(good, path), "STEPS = 2")
    assert line.startswith("error: Some records must be sound. Received: 10 bad")


def test_an_empty_training_file_is_an_error(error_of, tmp_path):
    path = record_files.write(tmp_path / "empty", [])
    assert "must hold at least one record" in error_of(*files(path))


def test_the_checkpoint_of_another_model_is_an_error(shapes_run, capsys):
    folder, bindings = shapes_run
    another = [*bindings, "limoe.Limoe.from_size.num_experts = 4"]
    for job in (train, evaluate):
        assert call(job, ROOT / "gin/runs/quickstart.gin", folder, another) == 1
        assert "The checkpoint must hold the variables of the model" in the_error(capsys)


def test_evaluation_without_a_checkpoint_is_an_error_and_makes_no_folder(error_of, tmp_path):
    line = error_of(job=evaluate, workdir=tmp_path / "none")
    assert "`workdir` must hold a checkpoint. Received: workdir=" in line
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made_is_an_error(error_of, tmp_path):
    (tmp_path / "file").write_text("")
    assert "must be a place for files that can be written to" in error_of(workdir=tmp_path / "file")


def test_flags_that_are_missing_or_misplaced_are_one_line_of_error(capsys):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["job"])
    assert train.main(["job"]) == 1
    assert capsys.readouterr().err == "error: --gin_file must be given.\n"
    assert train.main(["job", "run"]) == 1
    assert capsys.readouterr().err == "error: Flags are written --name=value. Received: run\n"
