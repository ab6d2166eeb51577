import json
import pathlib
import re

import pytest

import gin
from limoe_tf.data import grid_scenes, shapes, words
from limoe_tf.model.vlmoe import VlMoe
from limoe_tf.objectives.total import check_weights
from tests.shared import record_files
from tpu_jobs import gin_files

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("gin/runs/*.gin"))
ABLATION = ("none", "load", "z", "importance_and_load")
# Files whose data are drawn.
DRAWN = {
    *(f"gin/runs/{name}.gin" for name in ("quickstart", "full_losses", "classic_losses")),
    *(f"gin/runs/vlmoe_{name}.gin" for name in ("quickstart", *(f"losses_{n}" for n in ABLATION))),
}


@pytest.fixture(scope="module")
def bindings(tmp_path_factory):
    """Returns the bindings that a gin file needs here: those it requires, and a small model."""
    folder = tmp_path_factory.mktemp("gin")
    files = json.dumps(record_files.write_pairs(folder / "pairs", 4))
    vocabulary = str(folder / "words.model")
    words.train_vocabulary(["red circle", "blue star"], path=vocabulary, size=20, algorithm="bpe")
    names = folder / "names.txt"
    names.write_text("red circle\nblue star\ngreen square\n", "utf-8")
    required = {
        "TRAIN_FILES": files,
        "IMAGE_FILES": files,
        "TEXT_FILES": files,
        "TEST_FILES": files,
        "LABELLED_FILES": files,
        "CLASS_NAMES": json.dumps(str(names)),
        "VOCABULARY": json.dumps(vocabulary),
    }

    def bindings(path):
        text = (ROOT / path).read_text("utf-8")
        for included in re.findall(r'^include "(.+)"', text, re.MULTILINE):
            text += (ROOT / included).read_text("utf-8")
        given = [f"{name} = {value}" for name, value in required.items() if f"\n{name} = " in text]
        if path in DRAWN:
            given.append(f"sources.TfdsSource.data_dir = {json.dumps(str(folder))}")
        # The file's own size is read by the same line.
        model, size = ("vlmoe.VlMoe", "vlmoe-tiny") if "vlmoe" in path else ("limoe.Limoe", "tiny")
        return [*given, f'{model}.from_size.size = "{size}"']

    return bindings


@pytest.fixture
def parse(bindings, monkeypatch):
    """Parses a gin file from the root of the repository, with small splits of the shapes."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(shapes, "SPLITS", {"train": 20, "validation": 5, "test": 20})
    monkeypatch.setattr(grid_scenes, "SPLITS", {"train": 20, "validation": 5, "test": 20})
    monkeypatch.setattr(grid_scenes, "TRAIN_SCENES", {"40k": 20, "1m": 20})
    yield lambda path, *more: gin_files.parse([path], [*bindings(path), *more])
    gin.clear_config()


@pytest.mark.parametrize("path", FILES)
def test_every_line_of_a_gin_file_has_a_use(path, parse):
    parse(path)
    built = gin_files.build()  # Raises for a line without a use.
    assert built.model.count_params() > 0
    expected = {"masked"} if "vlmoe" in path else {"retrieval", "success_rate"}
    assert set(built.tasks) >= expected


@pytest.mark.parametrize(
    "line, name",
    [
        ("LEFT_OVER = 3", "LEFT_OVER"),
        ("to/tasks.Retrieval.resize = 'a'", "to/limoe_tf.evaluate.tasks.Retrieval.resize"),
        # Both scopes name files of their own.
        ("sources.TfrecordSource.pattern = 'a'", "limoe_tf.data.sources.TfrecordSource.pattern"),
        # The job itself says with which seed; gin's value would be passed over.
        ("batches.training_batches.seed = 7", "limoe_tf.data.batches.training_batches.seed"),
    ],
)
def test_a_line_without_a_use_is_named(line, name, parse):
    parse("gin/runs/tfrecord.gin", line)
    with pytest.raises(ValueError) as error:
        gin_files.build()
    assert str(error.value) == f"Every line of a gin file must have a use. Received: {name}"


def test_a_binding_that_some_scopes_take_has_a_use(parse):
    parse("gin/runs/tfrecord.gin", "test/sources.TfrecordSource.image = 'jpg'")
    gin_files.build()
    parse("gin/runs/tfrecord.gin", "sources.TfrecordSource.image = 'jpg'")
    gin_files.build()


def test_macros_that_a_file_requires_must_be_given():
    with pytest.raises(ValueError, match="TRAIN_FILES set to `%gin.REQUIRED`"):
        gin_files.parse([str(ROOT / "gin/runs/tfrecord.gin")], [])
    gin.clear_config()


def test_the_ablation_of_vlmoe_differs_in_the_weights_alone(parse):
    found, others = {}, set()
    for name in ABLATION:
        parse(f"gin/runs/vlmoe_losses_{name}.gin")
        given = gin.query_parameter("experiment.Experiment.loss_weights")
        weights = check_weights(given, VlMoe.default_weights)
        found[name] = {kind: weights[f"text/{kind}"] for kind in ("importance", "load")}
        for stream in ("image", "pair_image", "pair_text"):
            other = {kind: weights[f"{stream}/{kind}"] for kind in ("importance", "load")}
            assert other == found[name]
        found[name]["z"] = weights["z"]
        others.add(re.sub(r"experiment.Experiment.loss_weights = [^}]*}", "", gin.config_str()))
    assert len(others) == 1
    assert found == {
        "none": {"importance": 0.0, "load": 0.0, "z": 0.0},
        "load": {"importance": 0.0, "load": 0.01, "z": 0.0},
        "z": {"importance": 0.005, "load": 0.005, "z": 0.001},
        "importance_and_load": {"importance": 0.005, "load": 0.005, "z": 0.0},
    }


def test_the_files_on_losses_are_the_quickstart_with_all_and_with_the_classic_losses(parse):
    weights, others = {}, {}
    for name in ("quickstart", "full_losses", "classic_losses"):
        parse(f"gin/runs/{name}.gin")
        weights[name] = check_weights(gin.query_parameter("experiment.Experiment.loss_weights"))
        text = re.sub(r"experiment.Experiment.loss_weights = [^}]*}", "", gin.config_str())
        others[name] = text
    assert others["full_losses"] == others["classic_losses"] == others["quickstart"]
    assert weights["full_losses"] == weights["quickstart"]
    assert weights["classic_losses"] == {
        name: weight if name in ("contrastive", "importance", "load") else 0.0
        for name, weight in weights["quickstart"].items()
    }


def test_b16_is_that_of_the_scaling_study(bindings, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = "gin/runs/b16.gin"
    given = bindings(path)
    gin_files.parse([path], given[:-1])  # Without the small size.
    size = gin.get_bindings("limoe.Limoe.from_size")
    assert size == {
        "size": "B/16",
        "num_experts": 32,
        "vocabulary_size": 32_000,
        "group_size": 8,
        "dtype": "mixed_bfloat16",
    }
    gin_files.parse([path], given)
    run = gin_files.build()
    assert run.batch_size * run.steps == 12_800_000_000
    assert run.model.dtype_policy.name == "mixed_bfloat16"
    assert run.model.logit_scale().dtype == "float32"
    assert run.optimizer.name == "adafactor"
    assert (run.optimizer.weight_decay, run.optimizer.global_clipnorm) == (1e-4, 1.0)
    schedule = run.optimizer.get_config()["learning_rate"]
    assert schedule["class_name"] == "ReciprocalSquareRoot"
    assert schedule["config"] == {
        "base_learning_rate": 1e-3,
        "total_steps": 781_250,
        "warmup_steps": 10_000,
        "timescale": 10_000,
        "cooldown_steps": 50_000,
    }
    gin.clear_config()
