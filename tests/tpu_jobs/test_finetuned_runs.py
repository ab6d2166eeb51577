"""What other jobs make of a run that `finetune` has left."""

import json

import pytest

import gin
from limoe_tf.data import grid_classes
from tests.shared import exported
from tests.shared.small_runs import ROOT, SMALL_VLMOE, call
from tpu_jobs import ask, evaluate, evaluation, export, finetune, gin_files

GIN_FILE = ROOT / "gin/finetune/grid_classes.gin"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A fine-tuned run on a few scenes, and its bindings."""
    folder = tmp_path_factory.mktemp("classes")
    exported.vocabulary(folder)
    bindings = [
        *(line for line in SMALL_VLMOE if "masked" not in line and "num_codes" not in line),
        "STEPS = 2",
        "rates.rate_factors.depth = 2",
        f"vlmoe.VlMoe.from_size.vocabulary_size = {exported.PIECES}",
        f"experiment.Experiment.vocabulary = '{folder / 'vocabulary.model'}'",
        f"sources.TfdsSource.data_dir = '{folder / 'data'}'",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_classes, "SPLITS", {"train": 16, "validation": 1, "test": 10})
        assert call(finetune, GIN_FILE, folder / "run", bindings, pretrained="none") == 0
    return folder / "run", bindings


def numbers(folder, name="evaluation.json"):
    return json.loads((folder / name).read_text())


@pytest.fixture(autouse=True)
def without_gin():
    yield
    gin.clear_config()


def test_evaluation_gives_the_numbers_of_the_end_of_training(run):
    folder, bindings = run
    trained = numbers(folder, "results.json")
    assert set(trained["classes"]) == {"accuracy", "top_5"}
    for gin_file in ([str(GIN_FILE)], []):
        lines = bindings if gin_file else []
        assert call(evaluate, None, folder, lines, gin_file=gin_file) == 0
        assert numbers(folder)["classes"] == trained["classes"]
        assert numbers(folder)["step"] == 2
        (folder / "evaluation.json").unlink()


def test_its_savedmodel_can_be_asked(run, tmp_path, capsys):
    folder, _ = run
    export.export(evaluation.of_run(str(folder)), str(folder), str(tmp_path / "model"))
    photo = exported.write_png(tmp_path / "a.png", 1)
    ask.run(str(tmp_path / "model"), [photo], top=3)
    lines = capsys.readouterr().out.splitlines()
    assert "the model of step 2" in lines[0] and len(lines) == 5
    assert all(0 <= int(line.split()[0]) < 24 for line in lines[2:])


def test_its_keras_file_becomes_a_run_with_the_same_numbers(run, tmp_path):
    folder, bindings = run
    path = str(tmp_path / "mine.keras")
    export.export(evaluation.of_run(str(folder)), str(folder), path, form="keras")
    gin.clear_config()
    gin_files.parse([str(GIN_FILE)], bindings)
    export.from_keras(gin_files.build(), str(tmp_path / "new"), path)
    gin.clear_config()
    assert call(evaluate, None, tmp_path / "new", [], gin_file=[]) == 0
    assert numbers(tmp_path / "new")["classes"] == numbers(folder, "results.json")["classes"]
