"""The rows: which part of the package may import which, and who may know of devices and gin.

And the mirror: each source file has a test file of its name, or stands in a list with the reason.
"""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIRST_ROW = {
    "checks", "companions", "initial", "packing", "report", "tokens", "whole_file", "xla",
}  # fmt: skip
ROWS = {
    "custom_gradient": -1,
    **dict.fromkeys(FIRST_ROW, 0),
    "mesh": 1,
    **dict.fromkeys(("moe", "model", "objectives", "data"), 2),
    "train": 3,
    **dict.fromkeys(("layers", "metrics", "regularizers"), 3),  # They offer the parts of row 2.
    **dict.fromkeys(("evaluate", "export", "analyze"), 4),
    "downstream": 5,
    "tpu": 6,
    "tpu_jobs": 7,
}
# They build whole models from plain values, and hand them their losses and this package's way to
# train.
JOINED = ("limoe_tf.moe.", "limoe_tf.objectives.", "limoe_tf.train.fit.")
_JOINERS = ("contrast", "contrastive", "limoe", "sizes", "slices", "two_tower", "vlmoe")
JOINERS = {f"limoe_tf/model/{name}.py" for name in _JOINERS}
# Each may be imported, or reached through `tf`, only in these places.
KEPT_IN = {
    "gin": ("tpu_jobs/",),
    "mesh_tensorflow": ("limoe_tf/mesh/",),
    "tf.config": ("limoe_tf/mesh/", "tpu_jobs/doctor.py"),
    "tf.device": ("limoe_tf/mesh/",),
    "tf.distribute": ("limoe_tf/mesh/",),
    "tf.tpu": ("limoe_tf/mesh/",),
}


def names_used(tree):
    """Yields what is imported, and attributes of `tf`, as dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "tf":
            yield f"tf.{node.attr}"


def part_of(names):
    """Returns the part in which a module stands: a folder, or a file of the first row."""
    return "tpu_jobs" if names[0] == "tpu_jobs" else names[1]


def faults(path, source):
    """Returns the rules that a file breaks, as text."""
    own_names = pathlib.Path(path).with_suffix("").parts
    if own_names == ("limoe_tf", "__init__"):  # It offers the public names of all rows.
        return []
    if part_of(own_names) not in ROWS:
        return [f"{path} stands in no row"]
    own, found = part_of(own_names), []
    for name in names_used(ast.parse(source)):
        for kept, places in KEPT_IN.items():
            if f"{name}.".startswith(f"{kept}.") and not path.startswith(places):
                found.append(f"{path} must not use {name}")
        if name.startswith("."):
            found.append(f"{path} must import from the top: {name}")
        if name.split(".")[0] not in ("limoe_tf", "tpu_jobs"):
            continue
        other = part_of([*name.split("."), "nothing"])
        joins = path in JOINERS and name.startswith(JOINED)
        if own not in (other, "tpu_jobs") and not joins and ROWS.get(other, 8) >= ROWS[own]:
            found.append(f"{path} must not import {name}")
    return found


# What trains any model, and lowers its step: no losses, inputs or tasks of one kind.
ANY_OBJECTIVE = (
    *(f"limoe_tf/train/{name}.py" for name in ("callbacks", "fit", "gradients", "guard", "loop")),
    *(f"limoe_tf/train/{name}.py" for name in ("arguments", "compiled", "rollback", "step")),
    "limoe_tf/tpu/lower.py",
)


@pytest.mark.parametrize("path", ANY_OBJECTIVE)
def test_what_trains_any_model_names_no_objective(path):
    words = set(re.findall("[a-z]+", (ROOT / path).read_text("utf-8").lower()))
    assert words & {"image", "images", "text", "texts", "pairs", "embeddings", "accuracy"} == set()


def test_each_file_imports_only_from_lower_rows():
    paths = sorted([*ROOT.glob("limoe_tf/**/*.py"), *ROOT.glob("tpu_jobs/*.py")])
    assert len(paths) > 20
    relative = {path: path.relative_to(ROOT).as_posix() for path in paths}
    assert [f for path in paths for f in faults(relative[path], path.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    "path, source",
    [
        ("limoe_tf/moe/sparse.py", "from limoe_tf.model import block"),
        ("limoe_tf/model/block.py", "from limoe_tf.moe.sparse import Sparse"),
        ("limoe_tf/model/limoe.py", "import limoe_tf.data.words"),
        ("limoe_tf/model/limoe.py", "from limoe_tf.train import optimizer"),
        ("limoe_tf/mesh/replicas.py", "from limoe_tf import train"),
        ("limoe_tf/evaluate/retrieval.py", "import limoe_tf"),
        ("limoe_tf/evaluate/retrieval.py", "from limoe_tf.export import saved_model"),
        ("limoe_tf/train/fit.py", "from ..moe import sparse"),
        ("limoe_tf/train/fit.py", "import tpu_jobs.train"),
        ("limoe_tf/train/fit.py", "import gin"),
        ("limoe_tf/train/fit.py", "from gin import torch"),
        ("limoe_tf/train/fit.py", "strategy = tf.distribute.get_strategy()"),
        ("limoe_tf/model/embed.py", "with tf.device('CPU'): pass"),
        ("limoe_tf/moe/experts.py", "def call(): import mesh_tensorflow as mtf"),
        ("limoe_tf/helpers.py", "x = 1"),
        ("limoe_tf/helpers/strings.py", "x = 1"),
    ],
)
def test_a_file_that_breaks_a_rule_is_named(path, source):
    (fault,) = faults(path, source)
    assert fault.startswith(path)


@pytest.mark.parametrize(
    "path, source",
    [
        ("limoe_tf/model/limoe.py", "from limoe_tf.moe.sparse import Sparse"),
        ("limoe_tf/model/block.py", "from limoe_tf.model import attention"),
        ("limoe_tf/model/block.py", "from limoe_tf import checks, report"),
        ("limoe_tf/mesh/replicas.py", "tf.distribute.get_replica_context()"),
        ("limoe_tf/__init__.py", "from limoe_tf.model.limoe import Limoe"),
        ("tpu_jobs/train.py", "import gin, limoe_tf"),
    ],
)
def test_a_file_that_keeps_the_rules_is_left_alone(path, source):
    assert faults(path, source) == []


# Files and folders whose tests are elsewhere below `tests/`: where, and why.
TESTED_ELSEWHERE = {
    "benchmarks/": ("benchmarks/test_tables.py", "one test makes every table with small sizes"),
    "limoe_tf/analyze/charts.py": ("tpu_jobs/test_analyze.py", "drawn within a page"),
    "limoe_tf/analyze/fillings.py": ("tpu_jobs/test_fill_gaps.py", "the picture of that job"),
    "limoe_tf/analyze/findings.py": ("tpu_jobs/test_analyze.py", "what the page of a run shows"),
    "limoe_tf/analyze/icon_gallery.py": ("tpu_jobs/test_build_icons.py", "a flag of that job"),
    "limoe_tf/analyze/page.py": ("tpu_jobs/test_analyze.py", "the page of a run"),
    "limoe_tf/analyze/pictures.py": ("tpu_jobs/test_analyze.py", "drawn within a page"),
    "limoe_tf/analyze/tables.py": ("tpu_jobs/test_analyze.py", "the numbers beside a page"),
    "limoe_tf/data/crops.py": ("data/test_images.py", "a part of reading an image"),
    "limoe_tf/data/faults.py": ("data/test_bad_records.py", "each fault is made in a record"),
    "limoe_tf/data/formats/": ("data/test_formats.py", "one table of formats and properties"),
    "limoe_tf/data/grid_kinds.py": ("data/test_grid_questions.py", "words of questions"),
    "limoe_tf/data/grid_task.py": ("data/test_grid_questions.py", "built and read there"),
    "limoe_tf/data/icon_pictures.py": ("data/test_icons.py", "pictures of a small archive"),
    "limoe_tf/data/icon_sets.py": ("data/test_icons.py", "a small archive is read"),
    "limoe_tf/data/lines.py": ("data/test_text_source.py", "read through its source"),
    "limoe_tf/data/many_files.py": ("data/test_record_index.py", "its lines of progress"),
    "limoe_tf/data/processes.py": ("data/test_endless.py", "they draw scenes, and icons"),
    "limoe_tf/data/record_fields.py": ("data/test_sources.py", "fields of sources"),
    "limoe_tf/data/record_stream.py": ("data/test_position.py", "begun at any position"),
    "limoe_tf/data/records.py": ("data/test_sources.py", "read through a source"),
    "limoe_tf/data/scenes/": ("data/test_endless.py", "the parts of one data set"),
    "limoe_tf/data/tars.py": ("data/test_webdataset.py", "read by the converter alone"),
    "limoe_tf/data/training_examples.py": ("data/test_batches.py", "a stage of the batches"),
    "limoe_tf/downstream/answer_list.py": ("downstream/test_vqa_score.py", "scores of answers"),
    "limoe_tf/downstream/answer_text.py": ("downstream/test_vqa_score.py", "texts compared"),
    "limoe_tf/downstream/classes.py": ("downstream/test_models.py", "all models alike"),
    "limoe_tf/downstream/fine_tuned.py": ("downstream/test_models.py", "all models alike"),
    "limoe_tf/downstream/heads.py": ("downstream/test_models.py", "parts of the models"),
    "limoe_tf/downstream/image_classes.py": ("downstream/test_models.py", "all models alike"),
    "limoe_tf/downstream/image_folder.py": ("downstream/test_published_files.py", "images of all"),
    "limoe_tf/downstream/karpathy_files.py": ("downstream/test_published_files.py", "one of four"),
    "limoe_tf/downstream/left_out.py": ("downstream/test_published_files.py", "faults of all"),
    "limoe_tf/downstream/matching.py": ("downstream/test_models.py", "all models alike"),
    "limoe_tf/downstream/mnli_files.py": ("downstream/test_published_files.py", "one of four"),
    "limoe_tf/downstream/nlvr2_files.py": ("downstream/test_published_files.py", "one of four"),
    "limoe_tf/downstream/questions.py": ("downstream/test_models.py", "all models alike"),
    "limoe_tf/downstream/rates.py": ("downstream/test_models.py", "rates of a step"),
    "limoe_tf/downstream/score.py": ("downstream/test_batches.py", "scores of a source"),
    "limoe_tf/downstream/sentence_pairs.py": ("downstream/test_models.py", "all models alike"),
    "limoe_tf/downstream/statements.py": ("downstream/test_models.py", "all models alike"),
    "limoe_tf/downstream/vqa_files.py": ("downstream/test_published_files.py", "one of four"),
    "limoe_tf/evaluate/few_shot.py": ("evaluate/test_tasks.py", "a task like the others"),
    "limoe_tf/evaluate/look.py": ("evaluate/test_tasks.py", "by the check of each task"),
    "limoe_tf/evaluate/ranks.py": ("evaluate/test_retrieval.py", "ranks are counted there by hand"),
    "limoe_tf/export/files.py": ("export/test_signatures.py", "a part of the exported graph"),
    "limoe_tf/initial.py": ("model/test_vlmoe.py", "initial values by depth"),
    "limoe_tf/mesh/collectives.py": ("mesh/test_replicas.py", "what replicas exchange"),
    "limoe_tf/mesh/conditional.py": ("train/test_guard.py", "its one use"),
    "limoe_tf/mesh/program.py": ("mesh/test_expert_mesh.py", "run by the mesh alone"),
    "limoe_tf/mesh/rows.py": ("evaluate/test_tasks_on_replicas.py", "rows of uneven numbers"),
    "limoe_tf/mesh/shape.py": ("mesh/test_expert_mesh.py", "read by its constructor"),
    "limoe_tf/mesh/slices.py": ("model/test_slices.py", "slices against the whole batch"),
    "limoe_tf/mesh/system.py": ("tpu_jobs/test_train_on_replicas.py", "strategies of a job"),
    "limoe_tf/metrics.py": ("moe/test_metrics.py", "what it offers"),
    "limoe_tf/model/contrast.py": ("train/test_fit.py", "named in the logs of fit"),
    "limoe_tf/model/contrastive.py": ("train/test_fit.py", "fit, evaluate and predict of models"),
    "limoe_tf/model/k_means.py": ("model/test_patch_codes.py", "it finds the codes"),
    "limoe_tf/model/vl_streams.py": ("model/test_vlmoe_refusals.py", "batches it refuses"),
    "limoe_tf/moe/buffers.py": ("moe/test_sparse.py", "two ways through the layer"),
    "limoe_tf/moe/mlp.py": ("moe/test_experts.py", "against a loop over experts"),
    "limoe_tf/moe/sparse_values.py": ("moe/test_sparse.py", "values that it refuses"),
    "limoe_tf/regularizers.py": ("moe/test_regularizers.py", "what it offers"),
    "limoe_tf/tpu/": ("tpu/", "they need the TPU compiler"),
    "limoe_tf/train/adafactor_update.py": ("train/test_optimizer.py", "against NumPy"),
    "limoe_tf/train/compiled.py": ("train/test_freeze.py", "saved models, and compiling again"),
    "limoe_tf/train/loop.py": ("train/test_fit.py", "several steps against one by one"),
    "limoe_tf/train/step.py": ("train/test_fit.py", "what fit calls"),
    "limoe_tf/train/stored.py": ("train/test_init_from.py", "what weights are taken from"),
    "limoe_tf/train/transfer.py": ("train/test_init_from.py", "which becomes which"),
    "limoe_tf/whole_file.py": ("evaluate/test_results.py", "what writes results"),
    "tpu_jobs/__main__.py": ("tpu_jobs/test_limoe.py", "the command is called so"),
    "tpu_jobs/average_checkpoints.py": ("train/test_average.py", "a flag for each function"),
    "tpu_jobs/command.py": ("tpu_jobs/test_errors.py", "what all jobs do with an error"),
    "tpu_jobs/compile_check.py": ("tpu/test_compile_check.py", "it needs the TPU compiler"),
    "tpu_jobs/evaluation.py": ("tpu_jobs/test_evaluate.py", "run by that job"),
    "tpu_jobs/experiment.py": ("tpu_jobs/test_train.py", "run by that job"),
    "tpu_jobs/gin_files.py": ("gin_files/test_gin_files.py", "with the files that it reads"),
    "tpu_jobs/patch_codebook.py": ("tpu_jobs/test_build_patch_codes.py", "run by that job"),
    "tpu_jobs/run_state.py": ("tpu_jobs/test_train.py", "run by that job"),
}


def where_tested(path):
    """Returns where a source file is tested, below `tests/`."""
    own = pathlib.Path(path.removeprefix("limoe_tf/"))
    mirrored = own.with_name(f"test_{own.name}")
    if (ROOT / "tests" / mirrored).exists():
        return mirrored
    places = [place for kept, (place, _) in TESTED_ELSEWHERE.items() if path.startswith(kept)]
    return places[0] if places else mirrored


def sources():
    found = (
        path
        for part in ("limoe_tf", "tpu_jobs", "benchmarks")
        for path in ROOT.glob(f"{part}/**/*.py")
    )
    return sorted(path.relative_to(ROOT).as_posix() for path in found if path.name != "__init__.py")


def test_each_source_file_has_its_test_file():
    missing = {path: f"tests/{where_tested(path)}" for path in sources()}
    assert {p: test for p, test in missing.items() if not (ROOT / test).exists()} == {}


def test_no_file_of_the_list_has_a_test_file_of_its_own_or_is_gone():
    for path in TESTED_ELSEWHERE:
        own = pathlib.Path(path.removeprefix("limoe_tf/"))
        assert (ROOT / path).exists()
        assert not (ROOT / "tests" / own.with_name(f"test_{own.name}")).exists() or path.endswith(
            "/"
        )


def test_each_test_file_stands_beside_what_it_tests():
    """A folder of tests is a folder of sources, or one that says what it is."""
    folders = {
        path.parent.relative_to(ROOT / "tests").as_posix()
        for path in ROOT.glob("tests/**/test_*.py")
    }
    of_sources = {
        pathlib.Path(path.removeprefix("limoe_tf/")).parent.as_posix() for path in sources()
    }
    assert folders - of_sources == {"browser", "gin_files"}
