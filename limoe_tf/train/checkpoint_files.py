"""The files of a folder of checkpoints: which there are, what one holds, naming the newest.

What counts are the files themselves. TensorFlow writes `ckpt-STEP.data-...` first and gives
`ckpt-STEP.index` its name last, so a checkpoint with an index was written to its end. The state
file `checkpoint` is kept for TensorFlow's own tools: nothing is read by it, and where it is
missing, damaged or says something else, a warning says so.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tensorflow as tf

from limoe_tf import checks

# What TensorFlow puts behind each name in a checkpoint, and the name of the number of steps.
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
ITERATION = "optimizer/iteration"
# Exists only where the learning rate is a number and not a schedule.
LEARNING_RATE = "optimizer/learning_rate"
# Texts: the hashes of the files that the weights belong with, and the names of the frozen weights.
# Checkpoints of 0.1.0 have neither.
COMPANIONS, FROZEN = "companions", "frozen"
_MAX_FAULTS = 20
_STATE_FILE = "checkpoint"
_PART = re.compile(r"ckpt-(0|[1-9]\d*)(\.index|\.data-\d{5}-of-\d{5}|_temp)/?")
_NAMED = re.compile(r'^model_checkpoint_path: "(.*)"', re.MULTILINE)


def path_of(folder: str, step: int) -> str:
    """Returns the path of the checkpoint of a step."""
    return os.path.join(folder, f"ckpt-{step}")


def steps_in(folder: str) -> list[int]:
    """Returns the steps of the checkpoints in a folder, in ascending order.

    Raises:
      OSError: if the folder cannot be listed; one that is not there holds none.
    """
    return sorted(step for step, ending in _parts(folder).values() if ending == ".index")


def check_nothing_lost(folder: str) -> None:
    """Checks that a folder without a whole checkpoint has never held one.

    What was left of the very first checkpoint by a writer that was killed is no objection: before
    step 1 nothing is lost.

    Raises:
      ValueError: if there are parts of a later checkpoint, or a state file.
      OSError: if the folder cannot be listed.
    """
    left = [name for name, (step, _) in _parts(folder).items() if step > 0]
    if tf.io.gfile.exists(os.path.join(folder, _STATE_FILE)):
        left.append(_STATE_FILE)
    if left:
        raise ValueError(
            "A folder that has held checkpoints must hold a whole one, with its .index and .data "
            f"files; to begin anew name another folder. Received: {folder!r}, in which there are "
            f"{', '.join(sorted(left)[:5])}"
        )


def fault_of_state_file(folder: str) -> str | None:
    """Returns in some words what is wrong with a folder's state file; None if nothing is."""
    newest = os.path.basename(path_of(folder, steps_in(folder)[-1]))
    path = os.path.join(folder, _STATE_FILE)
    if not tf.io.gfile.exists(path):
        return f"{path!r} is missing"
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            found = _NAMED.search(file.read().decode("utf-8", errors="replace"))
    except tf.errors.OpError as error:
        return f"{path!r} cannot be read ({error.message})"
    if found is None:
        return f"{path!r} names no checkpoint"
    return None if found[1] == newest else f"{path!r} names {found[1]!r} as the newest"


def write_state_file(folder: str, steps: Sequence[int]) -> None:
    """Writes the state file by which TensorFlow's own tools find the newest of some steps."""
    names = [os.path.basename(path_of(folder, step)) for step in steps]
    lines = [f'model_checkpoint_path: "{names[-1]}"\n']
    lines += [f'all_model_checkpoint_paths: "{name}"\n' for name in names]
    path = os.path.join(folder, _STATE_FILE)
    with tf.io.gfile.GFile(f"{path}.new", "w") as file:
        file.write("".join(lines))
    tf.io.gfile.rename(f"{path}.new", path, overwrite=True)


def delete(folder: str, steps: Collection[int]) -> None:
    """Deletes the checkpoints of some steps, each one's index first."""
    parts = [(ending, name) for name, (step, ending) in _parts(folder).items() if step in steps]
    for ending, name in sorted(parts, reverse=True):
        if ending != "_temp":
            tf.io.gfile.remove(os.path.join(folder, name))


def nested(named: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {"a/b": variable} as {"a": {"b": variable}}, as `tf.train.Checkpoint` takes it."""
    tree = {}
    for name, variable in named.items():
        *parents, leaf = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = variable
    return tree


def opened(path: str | os.PathLike) -> tuple[Any, int]:
    """Returns a reader of the checkpoint at `path`, and its step.

    Raises:
      ValueError: if TensorFlow would take the path for a pattern.
      OSError: if it cannot be read, or its name is that of another step.
    """
    path = checks.plain_path("checkpoint", path)
    try:
        reader = tf.compat.v1.train.NewCheckpointReader(path)
        step = int(reader.get_tensor(f"{ITERATION}{SUFFIX}"))
    except (tf.errors.OpError, IndexError, RuntimeError, ValueError) as error:
        # TensorFlow's reader says IndexError for a file that ends too early.
        raise OSError(f"Cannot read checkpoint {path!r}: {error}") from error
    named = _PART.fullmatch(f"{os.path.basename(path)}.index")
    if named and int(named[1]) != step:
        raise OSError(f"Cannot read checkpoint {path!r}: it holds step {step}")
    return reader, step


def text_in(reader: Any, name: str, default: str) -> str:
    """Returns a text that a checkpoint holds, or the one that a checkpoint of 0.1.0 stands for."""
    name = f"{name}{SUFFIX}"
    return reader.get_tensor(name).decode() if reader.has_tensor(name) else default


def check_matches(
    path: str | os.PathLike,
    reader: Any,
    variables: Mapping[str, tf.Variable],
    *,
    kinds: tuple[str, ...],
    frozen: Collection[str] = (),
) -> None:
    """Checks that a checkpoint holds the variables of a model.

    Args:
      path: of the checkpoint.
      reader: of it.
      variables: dict by name of what would be restored. Those of other kinds may be missing.
      kinds: beginnings of the names that must be the same here and there, but for the learning
        rate.
      frozen: names of weights, without "model/", that are frozen in the model or in the checkpoint:
        what an optimizer has of them may be missing in either.

    Raises:
      ValueError: if names, types or shapes differ; they are named.
    """
    dtypes = reader.get_variable_to_dtype_map()
    stored = {
        key.removesuffix(SUFFIX): f"{dtypes[key].name}{shape}"
        for key, shape in reader.get_variable_to_shape_map().items()
        if key.startswith(kinds) or key.removesuffix(SUFFIX) in variables
    }
    stored.pop(LEARNING_RATE, None)
    wanted = {
        name: f"{variable.dtype.name}{variable.shape.as_list()}"
        for name, variable in variables.items()
        if name in stored or name.startswith(kinds)
    }
    differing = [name for name in wanted.keys() & stored if wanted[name] != stored[name]]
    slots = tuple(f"optimizer/{name}/" for name in frozen)
    lacking, unknown = (
        [name for name in names if not name.startswith(slots)]
        for names in (wanted.keys() - stored, stored.keys() - wanted)
    )
    faults = [
        *(f"not in the checkpoint: {name}" for name in lacking),
        *(f"not in the model: {name}" for name in unknown),
        *(f"{name}: {stored[name]}, in the model {wanted[name]}" for name in differing),
    ]
    if faults:
        shown = sorted(faults)[:_MAX_FAULTS]
        if len(faults) > len(shown):
            shown.append(f"and {len(faults) - len(shown)} more")
        raise ValueError(
            "The checkpoint must hold the variables of the model, no more and no less. "
            f"Received: path={os.fspath(path)!r}\n  " + "\n  ".join(shown)
        )


def _parts(folder):
    """Returns name -> (step, ending) of a folder's files that belong to checkpoints."""
    try:
        names = tf.io.gfile.listdir(folder)
    except tf.errors.NotFoundError:
        return {}
    except tf.errors.OpError as error:
        raise OSError(f"Cannot list {folder!r}: {error.message}") from error
    found = {name: _PART.fullmatch(name) for name in names}
    return {name: (int(part[1]), part[2]) for name, part in found.items() if part}
