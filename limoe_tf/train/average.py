"""The mean of several checkpoints' weights, as a checkpoint of its own."""

import os
import types
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import checks, companions
from limoe_tf.train import checkpoint_files
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.checkpoint_files import COMPANIONS, ITERATION, SUFFIX, nested
from limoe_tf.train.steps import StepCount


class AverageCheckpoints(keras.callbacks.Callback):
    """Averages the weights at several steps towards the end of training.

    It saves checkpoints of its own at those steps and writes their `average` at the last of them.
    So a resumed run averages the same, on any mesh. Steps before the callback was first used are
    left out. With `steps_per_execution`, calls must end at these steps. It must come before
    `SaveCheckpoint` in the list given to `fit`: a run with its last checkpoint is not resumed.

    Args:
      checkpoints: `Checkpoints` of the model that is trained, in a folder of its own, with
        `max_to_keep` of at least `last`.
      folder: where the average is written, as `ckpt-STEP-mean-of-NUMBER`.
      to_step: the last step that is averaged.
      every_steps: steps between two that are averaged.
      last: how many are averaged.

    Raises:
      ValueError: if the first step would come before step 1.

    Reference: see `average`.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        folder: str | os.PathLike,
        *,
        to_step: int,
        every_steps: int,
        last: int,
    ):
        super().__init__()
        self.checkpoints, self.folder, self.to_step = checkpoints, os.fspath(folder), to_step
        self.steps = steps_to_average(to_step=to_step, every_steps=every_steps, last=last)

    def on_epoch_begin(self, epoch, logs=None):
        self._count = StepCount(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self._count.advance()
        if self._count.step in self.steps:
            self.checkpoints.save()
        if self._count.step == self.to_step:
            paths = self.checkpoints.at(self.steps)
            output = os.path.join(self.folder, f"ckpt-{self.to_step}-mean-of-{len(paths)}")
            # If the run was killed after it was written, it exists and is complete.
            if not tf.io.gfile.exists(f"{output}.index"):
                average(paths, output)


def steps_to_average(*, to_step: int, every_steps: int, last: int) -> set[int]:
    """Returns the set of the steps that an `AverageCheckpoints` of these arguments averages.

    Raises:
      ValueError: if the first step would come before step 1.
    """
    steps = {to_step - every_steps * back for back in range(checks.positive_int("last", last))}
    if min(steps) < 1:
        raise ValueError(
            f"`last` steps, every_steps={every_steps} apart, must lie between 1 and "
            f"to_step={to_step}. Received: last={last}"
        )
    return steps


def newest(folder: str | os.PathLike, *, last: int) -> list[str]:
    """Returns the paths of a folder's newest checkpoints, oldest first.

    Args:
      folder: where `Checkpoints` saved them.
      last: how many.

    Raises:
      ValueError: if the folder has fewer.
    """
    checks.positive_int("last", last)
    folder = os.fspath(folder)
    steps = checkpoint_files.steps_in(folder)
    if len(steps) < last:
        raise ValueError(
            f"`last` must be at most the number of checkpoints in {folder!r}, {len(steps)}; "
            f"`Checkpoints(max_to_keep=...)` sets how many are kept. Received: last={last}"
        )
    return [checkpoint_files.path_of(folder, step) for step in steps[-last:]]


def average(paths: Sequence[str | os.PathLike], output: str | os.PathLike) -> str:
    """Writes a checkpoint of the means of the weights, for evaluation.

    Means are taken in float32; integers, such as counters and the number of steps, are those of the
    last checkpoint. The optimizer's state is left out: training cannot be resumed from it.

    Args:
      paths: checkpoints of one model that `Checkpoints` saved, the newest last.
      output: path of the new one, without a suffix.

    Returns:
      The path written.

    Raises:
      ValueError: if there are none, one has other variables than the last or belongs with another
        vocabulary, or `output` exists.
      OSError: if one cannot be read.

    Reference: LIMoE-H/14 is such a mean of its last checkpoints, https://arxiv.org/abs/2206.02770;
      how many there are, and how far apart, is not printed.
    """
    output = checks.plain_path("output", output)
    if not paths:
        raise ValueError("`paths` must name checkpoints. Received: none")
    if tf.io.gfile.exists(f"{output}.index"):
        raise ValueError(f"`output` must not exist yet. Received: output={output!r}")
    readers = [checkpoint_files.opened(path)[0] for path in paths]
    shared = types.SimpleNamespace()
    for path, reader in zip(paths, readers):
        text = checkpoint_files.text_in(reader, COMPANIONS, "{}")
        companions.join_stored(shared, text, place=repr(os.fspath(path)))
    specs = [_specs(reader) for reader in readers]
    for path, found in zip(paths, specs):
        _check_same(os.fspath(path), found, specs[-1])
    tf.io.gfile.makedirs(os.path.dirname(output) or ".")
    variables = {
        name: tf.Variable(_mean([_values(*one, name) for one in zip(paths, readers)]), dtype=dtype)
        for name, (dtype, _) in specs[-1].items()
    }
    variables[COMPANIONS] = tf.Variable(companions.stored(shared))
    variables[ITERATION] = tf.Variable(readers[-1].get_tensor(f"{ITERATION}{SUFFIX}"))
    return tf.train.Checkpoint(**nested(variables)).write(output)


def _specs(reader):
    """Returns name -> (dtype, shape) of the weights."""
    dtypes = reader.get_variable_to_dtype_map()
    return {
        key.removesuffix(SUFFIX): (dtypes[key], tuple(shape))
        for key, shape in reader.get_variable_to_shape_map().items()
        if key.startswith("model/")
    }


def _check_same(path, specs, wanted):
    differing = sorted(n for n in specs.keys() | wanted if specs.get(n) != wanted.get(n))
    if differing or not specs:
        raise ValueError(
            "Checkpoints must be of one model to be averaged. "
            f"Received: {path!r}, which differs from the last in {differing[:5] or 'having none'}"
        )


def _values(path, reader, name):
    try:
        return np.asarray(reader.get_tensor(f"{name}{SUFFIX}"))
    except (tf.errors.OpError, IndexError, RuntimeError) as error:
        raise OSError(f"Cannot read checkpoint {os.fspath(path)!r}: {error}") from error


def _mean(values):
    if np.issubdtype(values[-1].dtype, np.integer) or values[-1].dtype == bool:
        return values[-1]
    total = np.zeros(values[-1].shape, np.float32)
    for value in values:
        total += value.astype(np.float32)
    return (total / np.float32(len(values))).astype(values[-1].dtype)
