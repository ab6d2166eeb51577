"""Damages checkpoints, state files and folders of runs, and looks at what a start makes of them.

    .venv/bin/python -m benchmarks.damage_runs [--count=200] [--seed=0]

A start must go on from a whole checkpoint, to the bit as it was saved, with a warning where that is
not the newest or the folder's state file is wrong, or refuse in an error that a user can read. It
must never begin at step 0, and readers of single checkpoints must never give other values.
"""

import argparse
import collections
import os
import pathlib
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import Limoe
from limoe_tf.data.record_index import RecordIndex
from limoe_tf.data.sources import TfrecordSource
from limoe_tf.train import average, names
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.rollback import Rollbacks
from tpu_jobs import evaluation
from tpu_jobs.run_state import RunState
from tpu_jobs.settings import Settings

STEPS = (2, 4, 6)
REFUSALS = (OSError, ValueError)


def make_model() -> keras.Model:
    """Returns a compiled model of a few thousand weights."""
    keras.utils.clear_session(free_memory=False)
    model = Limoe(
        width=8, depth=1, num_heads=2, hidden_width=8, patch_size=4, image_size=8, text_length=4,
        vocabulary_size=16, num_experts=4, plan=("sparse",),
    )  # fmt: skip
    model.compile(keras.optimizers.Adam(1e-3))
    return model


class Run:
    """The sound folder of a run, and the model that is restored from damaged copies of it.

    Args:
      folder: where the sound run goes.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        self.model = make_model()
        self.saved = {}
        checkpoints, state = self.opened(self.folder)
        state.settings.begin()
        for step in STEPS:
            draw = np.random.default_rng(step)
            for variable in self.variables():
                variable.assign(tf.cast(draw.integers(0, 99, variable.shape), variable.dtype))
            self.model.optimizer.iterations.assign(step)
            checkpoints.save()
            self.saved[step] = self.values()
        records = [f'{{"step": {step}, "seconds": {step}.5}}\n' for step in range(1, STEPS[-1] + 1)]
        (self.folder / "metrics.jsonl").write_text("".join(records))
        (self.folder / "config.gin").write_text("BATCH_SIZE = 8\na.B.batch_size = %BATCH_SIZE\n")
        self.source = self._source()
        RecordIndex(self.folder / "records.npz").runs(self.source)

    def _source(self):
        path = f"{self.folder}.records"
        with tf.io.TFRecordWriter(path) as writer:
            for number in range(100):
                writer.write(b"record %d" % number)
        return TfrecordSource(path)

    def variables(self) -> list:
        """Returns the model's state, less the learning rate, which no checkpoint sets."""
        rate = "optimizer/learning_rate"
        return [v for name, v in names.of_state(self.model).items() if name != rate]

    def values(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.variables()]

    def opened(self, folder: str | os.PathLike) -> tuple[Checkpoints, RunState]:
        """Returns Checkpoints and state as a start of `train` makes them."""
        state = RunState(Rollbacks(), Settings({"a.B.batch_size": "8"}, bound=()))
        checkpoints = Checkpoints(
            self.model, os.path.join(folder, "checkpoints"), others=state.variables()
        )
        return checkpoints, state

    def start(self, folder: str | os.PathLike) -> int:
        """Does what `train` does before its first step; returns the step it would go on from."""
        for variable in self.variables():
            variable.assign(tf.fill(variable.shape, tf.cast(100, variable.dtype)))
        checkpoints, state = self.opened(folder)
        step = state.restore(checkpoints, str(folder), to_step=100)
        RecordIndex(os.path.join(folder, "records.npz")).runs(self.source)
        return step


def fault_of(run: Run, folder: str | os.PathLike) -> tuple[str | None, str]:
    """Returns what is wrong with a start from a folder, or None; and what happened, in a word."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            step = run.start(folder)
        except REFUSALS as error:
            fault = None if str(folder) in str(error) else f"names no place: {error}"
            return fault, "refused"
    if step not in STEPS:
        return f"begins at step {step}", ""
    if fault := _difference(run, step):
        return fault, ""
    if step != STEPS[-1] and not told:
        return f"goes back to step {step} without a word", ""
    warned = " with a warning" if told else ""
    return None, f"goes on from the {'newest' if step == STEPS[-1] else 'one before'}{warned}"


def fault_of_readers(run: Run, folder: str | os.PathLike) -> str | None:
    """Returns what is wrong with what `evaluate` and `average_checkpoints` read; or None."""
    weights = len(run.model.weights)
    for variable in run.variables():
        variable.assign(tf.fill(variable.shape, tf.cast(100, variable.dtype)))
    checkpoints = os.path.join(folder, "checkpoints")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            step, path = evaluation.restore(run.model, str(folder))
            fault = _difference(run, step, weights)
            if fault or not path.endswith(f"ckpt-{step}"):
                return f"evaluate reads {path}: {fault}"
        except REFUSALS:
            pass
        try:
            (path,) = average.newest(checkpoints, last=1)
            written = average.average([path], os.path.join(folder, "mean"))
            step = Checkpoints(run.model, folder, weights_only=True).restore(written)
            if fault := _difference(run, step, weights):
                return f"the average of step {step}: {fault}"
        except REFUSALS:
            pass
    return None


def _difference(run, step, count=None):
    if step not in STEPS:
        return f"there has been no step {step}"
    found = run.values()
    for number, (one, another) in enumerate(zip(found[:count], run.saved[step])):
        if not np.array_equal(one, another):
            return f"variable {number} is not that of step {step}"
    return None


# Each damages a copy of the run; what it returns says how.


def change_a_file(draw: random.Random, folder: pathlib.Path) -> str:
    """Damages the bytes of a file, or takes it away."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "train.lock")
    newest = [p for p in files if p.name.startswith(f"ckpt-{STEPS[-1]}.")]
    path = draw.choice([*files, *newest, *newest])
    how = draw.choice(sorted(BYTES))
    if how == "removed":
        path.unlink()
    else:
        path.write_bytes(BYTES[how](draw, path.read_bytes()))
    return f"{path.name} {how}"


def _flipped(draw, data):
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 3, 40])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _end_flipped(draw, data):
    """Changes the last bytes, which in an index say where all the others lie."""
    start = max(0, len(data) - 48)
    return data[:start] + _flipped(draw, data[start:])


BYTES = {
    "removed": None,
    "emptied": lambda draw, data: b"",
    "cut": lambda draw, data: data[: draw.randrange(len(data))],
    "with changed bits": _flipped,
    "with changed bits at its end": _end_flipped,
    "with more at its end": lambda draw, data: data + draw.randbytes(draw.randrange(1, 99)),
    "overwritten": lambda draw, data: draw.randbytes(len(data)),
    "overwritten with zeros": lambda draw, data: bytes(len(data)),
}


def change_the_state_file(draw: random.Random, folder: pathlib.Path) -> str:
    """Writes another state file, or none."""
    path = folder / "checkpoints" / "checkpoint"
    path.unlink()
    text = draw.choice([
        None, "", "\0" * 40, "model_checkpoint_path: ", 'model_checkpoint_path: "ckpt-',
        'model_checkpoint_path: "ckpt-2"\n', 'model_checkpoint_path: "/elsewhere/ckpt-6"\n',
        'model_checkpoint_path: "ckpt-9"\nall_model_checkpoint_paths: "ckpt-9"\n', "\udcff\udc80",
    ])  # fmt: skip
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return f"state file: {text!r}"


def mix_checkpoints(draw: random.Random, folder: pathlib.Path) -> str:
    """Renames, copies or swaps files of checkpoints."""
    there, (one, another) = folder / "checkpoints", draw.sample(STEPS, 2)
    endings = draw.choice([(".index",), (".data-00000-of-00001",), (".index", ENDINGS[1])])
    how = draw.choice(["renamed", "copied", "swapped"])
    target = draw.choice([another, 9, 40]) if how != "swapped" else another
    for ending in endings:
        source, goal = there / f"ckpt-{one}{ending}", there / f"ckpt-{target}{ending}"
        if how == "swapped":
            content = goal.read_bytes()
            goal.write_bytes(source.read_bytes())
            source.write_bytes(content)
        elif how == "copied":
            shutil.copy(source, goal)
        else:
            source.replace(goal)
    return f"{' and '.join(endings)} of {one} {how} to {target}"


ENDINGS = (".index", ".data-00000-of-00001")


def copy_in_part(draw: random.Random, folder: pathlib.Path) -> str:
    """Leaves only some files of the checkpoints there, as a copy that was broken off."""
    files = sorted((folder / "checkpoints").iterdir())
    left = draw.sample(files, draw.randrange(len(files)))
    for path in set(files) - set(left):
        path.unlink()
    if draw.random() < 0.2:
        (folder / "metrics.jsonl").unlink()
    return f"only {sorted(path.name for path in left)} left"


def add_foreign_files(draw: random.Random, folder: pathlib.Path) -> str:
    """Puts files there that belong to nothing."""
    names_ = [
        "ckpt-8.index.bak", "ckpt-08.index", "ckpt-.index", "ckpt-x.index", "ckpt-8.data",
        "best.index", ".ckpt-8.index.swp", "ckpt-8 (1).index", "ckpt-8.data-00000-of-00001",
        "ckpt-99999999999999999999.index", "ckpt-8.index",
    ]  # fmt: skip
    chosen = draw.sample(names_, 3)
    for name in chosen:
        path = folder / "checkpoints" / name
        if draw.random() < 0.2:
            path.mkdir()
        else:
            path.write_bytes(draw.randbytes(draw.choice([0, 30, 300])))
    return f"foreign files: {chosen}"


KINDS = [
    change_a_file, change_a_file, change_a_file, change_the_state_file, mix_checkpoints,
    copy_in_part, add_foreign_files,
]  # fmt: skip


def compare(
    folder: str | os.PathLike, *, count: int, seed: int, progress: Callable = print
) -> collections.Counter:
    """Damages copies of a run, and starts from each.

    Args:
      folder: where the runs go.
      count: how many copies.
      seed: of the damage.
      progress: function that shows a line for each.

    Returns:
      collections.Counter of what the starts did.

    Raises:
      RuntimeError: if one did what it must not; all are named.
    """
    folder = pathlib.Path(folder)
    run, done, faults = Run(folder / "sound"), collections.Counter(), []
    if (sound := fault_of(run, run.folder)) != (None, "goes on from the newest"):
        raise RuntimeError(f"The sound run is not gone on with: {sound}")
    for number in range(count):
        draw, copy = random.Random(f"{seed} {number}"), folder / f"damaged_{number}"
        shutil.copytree(run.folder, copy)
        damage = draw.choice(KINDS)(draw, copy)
        fault, happened = fault_of(run, copy)
        fault = fault or fault_of_readers(run, copy)
        progress(f"{damage}: {fault or happened}")
        if fault:
            faults.append(f"{damage}: {fault}")
        done[happened] += 1
        shutil.rmtree(copy)
    if faults:
        raise RuntimeError("Of damaged runs:\n" + "\n".join(faults))
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tf.get_logger().setLevel("ERROR")
    with tempfile.TemporaryDirectory() as folder:
        done = compare(folder, count=options.count, seed=options.seed)
    for happened, count in done.most_common():
        print(f"{count} of {options.count}: {happened}")


if __name__ == "__main__":
    main()
