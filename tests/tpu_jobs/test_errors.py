import os
import re
import subprocess
import sys

import pytest
from absl import flags

from limoe_tf.data import words
from tests.shared import record_files
from tests.shared.small_runs import ROOT, SMALL, call, the_error
from tpu_jobs import evaluate, train


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Returns the bindings with which tfrecord.gin trains on a small file."""
    path = record_files.write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", 40)
    return [*SMALL, *files(path), "limoe.Limoe.from_size.image_size = 32", vocabulary_size(40)]


def files(train_files, test_files=None):
    return [f"TRAIN_FILES = '{train_files}'", f"TEST_FILES = '{test_files or train_files}'"]


def vocabulary_size(size):
    return f"limoe.Limoe.from_size.vocabulary_size = {size}"


@pytest.fixture
def error_of(tmp_path, pairs, capsys):
    """Runs a job that must fail; returns the one line that it prints."""

    def error_of(*bindings, job=train, workdir=tmp_path):
        assert call(job, ROOT / "gin/runs/tfrecord.gin", workdir, [*pairs, *bindings]) == 1
        return the_error(capsys)

    return error_of


def test_a_missing_gin_file_is_one_line_and_exit_code_1(tmp_path):
    command = [sys.executable, "-m", "tpu_jobs.train", "--gin_file=no.gin", f"--workdir={tmp_path}"]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "error: `gin_file` must be an existing file, or one of the package"
    )


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
        ("limoe.Limoe.from_size.image_size = 40", "multiple of `patch_size`.*image_size=40"),
        (
            "limoe.Limoe.from_size.group_size = 3",
            "`group_size` must divide .*group_size=3, examples=8",
        ),
        ("experiment.Experiment.loss_weights = {'zz': 1}", "`loss_weights` must name losses"),
        ("BATCH_SIZE = 0", "`batch_size` must be at least 1. Received: batch_size=0"),
        (
            "STEPS = 1",
            r"`warmup_steps` \+ .* at most total_steps=1.*warmup_steps=2.*schedule.Cosine",
        ),
        ("two_tower.TwoTower.width = 1", "below the line: from limoe_tf.model import two_tower"),
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


def test_too_few_captions_for_the_vocabulary_are_an_error_that_names_its_size(error_of):
    line = error_of(vocabulary_size(900))
    assert re.match("error: `size` must be at most [0-9]+ for these captions. Rec", line)
    assert line.endswith("size=900, the model's `vocabulary_size`")


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


def test_no_valid_record_in_the_test_set_is_an_error(error_of, pairs, tmp_path):
    broken = [record_files.example(jpg=b"no image", caption=b"image 1 caption 0")] * 10
    good = pairs[len(SMALL)].split("'")[1]
    path = record_files.write(tmp_path / "broken", broken)
    line = error_of(*files(good, path), "STEPS = 2")
    assert line.startswith("error: At least one record must be valid. Received: 10 bad")


def test_a_mistake_of_a_task_is_found_before_training(pairs, tmp_path, capsys):
    three = tmp_path / "three.gin"
    text = (ROOT / "gin/runs/tfrecord.gin").read_text()
    here = '    "success_rate": @tasks.SuccessRates(),\n'
    three.write_text(
        text.replace(here, f'{here}    "zero_shot": @tasks.ZeroShot(),\n')
        + """
labelled/sources.TfrecordSource.pattern = %TEST_FILES
labelled/sources.TfrecordSource.captions = None
labelled/sources.TfrecordSource.labels = "label"
tasks.ZeroShot.source = @labelled/sources.TfrecordSource()
"""
    )
    for line, expected in (
        (
            '["dog", "?", "cat"]',
            r"error: `class_names` must hold words. Received: '\?' for label 1",
        ),
        (
            '["dog", "cat"]',
            r"error: `labels` must be between 0 and 1,.* 2 \(task 'zero_shot'\)$",
        ),
    ):
        lines = [*pairs, f"tasks.ZeroShot.class_names = {line}"]
        assert call(train, three, tmp_path / "run", lines) == 1
        message = the_error(capsys)
        assert re.match(expected, message), message
    assert not (tmp_path / "run" / "results.json").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_empty_training_file_is_an_error(error_of, tmp_path):
    path = record_files.write(tmp_path / "empty", [])
    assert "must hold at least one record" in error_of(*files(path))


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


def test_a_bucket_that_cannot_be_reached_is_one_line_of_error(error_of, monkeypatch):
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # Otherwise TensorFlow asks for credentials first.
    bucket = "gs://limoe-tf-no-such-bucket"
    line = error_of(workdir=f"{bucket}/run")
    assert "must be a place for files that can be written to" in line and f"{bucket}/run" in line
    line = error_of(f"TRAIN_FILES = '{bucket}/train-*'")
    assert "must match at least one file" in line and f"{bucket}/train-*" in line
    line = error_of(f"experiment.Experiment.vocabulary = '{bucket}/words.model'")
    assert "`vocabulary` must be an existing file" in line and f"{bucket}/words.model" in line


def test_a_tpu_without_its_tensorflow_is_one_line_of_error(tmp_path, pairs, capsys):
    for tpu in ("local", "my-slice"):
        assert call(train, ROOT / "gin/runs/tfrecord.gin", tmp_path, pairs, tpu=tpu) == 1
        line = the_error(capsys)
        assert "needs the package tensorflow-tpu" in line and "setup_tpu_vm.sh" in line
        assert f"tpu={tpu!r}" in line


def test_more_replicas_than_devices_are_one_line_of_error(tmp_path, pairs, capsys):
    assert call(train, ROOT / "gin/runs/tfrecord.gin", tmp_path, pairs, replicas=9) == 1
    assert "at most the 8 CPUs of this host. Received: num_replicas=9" in the_error(capsys)


@pytest.mark.parametrize(
    "line, expected",
    [
        ("BATCH_SIZE = 9", "`batch_size` must be divisible by the 2 replicas.*batch_size=9"),
        ("experiment.Experiment.mesh = 'expert:4'", "place for each of the 2 replicas.*'expert:4'"),
        ("limoe.Limoe.from_size.num_experts = 7", "divisible by the size 2 .*num_experts=7"),
        ("experiment.Experiment.steps_per_execution = 4", "must divide steps=6.*execution=4"),
    ],
)
def test_what_replicas_cannot_share_is_one_line_of_error(line, expected, tmp_path, pairs, capsys):
    lines = [*pairs, "experiment.Experiment.mesh = 'expert:2'", line]
    assert call(train, ROOT / "gin/runs/tfrecord.gin", tmp_path, lines, replicas=2) == 1
    message = the_error(capsys)
    assert re.match(f"error: .*{expected}", message), message
