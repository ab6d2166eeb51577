"""The rows: which part of the package may import which, and who may know of devices and gin."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIRST_ROW = {"checks", "companions", "report", "tokens", "xla"}
ROWS = {
    **dict.fromkeys(FIRST_ROW, 0),
    "mesh": 1,
    **dict.fromkeys(("moe", "model", "objectives", "data"), 2),
    "train": 3,
    **dict.fromkeys(("evaluate", "export", "analyze"), 4),
    "tpu": 5,
    "tpu_jobs": 6,
}
# They build whole models from plain values, and hand them this package's way to train.
JOINED = ("limoe_tf.moe.", "limoe_tf.train.fit.")
JOINERS = {"limoe_tf/model/limoe.py", "limoe_tf/model/two_tower.py", "limoe_tf/model/sizes.py"}
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
        if own not in (other, "tpu_jobs") and not joins and ROWS.get(other, 7) >= ROWS[own]:
            found.append(f"{path} must not import {name}")
    return found


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
