"""The mean of several checkpoints' weights, as a checkpoint of its own."""

import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.train.checkpoint import ITERATION, SUFFIX, Checkpoints, nested
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
        self.steps = {to_step - every_steps * back for back in range(last)}
        if checks.positive_int("last", last) and min(self.steps) < 1:
            raise ValueError(
                f"`last` steps, every_steps={every_steps} apart, must lie between 1 and "
                f"to_step={to_step}. Received: last={last}"
            )

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


def newest(folder: str | os.PathLike, *, last: int) -> list[str]:
    """Returns the paths of a folder's newest checkpoints, oldest first.

    Args:
      folder: where `Checkpoints` saved them.
      last: how many.

    Raises:
      ValueError: if the folder has fewer.
    """
    checks.positive_int("last", last)
    found = tf.train.get_checkpoint_state(os.fspath(folder))
    paths = list(found.all_model_checkpoint_paths) if found else []
    if len(paths) < last:
        raise ValueError(
            f"`last` must be at most the number of checkpoints in {os.fspath(folder)!r}, "
            f"{len(paths)}; `Checkpoints(max_to_keep=...)` sets how many are kept. "
            f"Received: last={last}"
        )
    return paths[-last:]


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
      ValueError: if there are none, one cannot be read or has other variables than the last, or
        `output` exists.

    Reference: LIMoE-H/14 is such a mean of its last checkpoints, https://arxiv.org/abs/2206.02770;
      how many there are, and how far apart, is not printed.
    """
    output = os.fspath(output)
    if not paths:
        raise ValueError("`paths` must name checkpoints. Received: none")
    if tf.io.gfile.exists(f"{output}.index"):
        raise ValueError(f"`output` must not exist yet. Received: output={output!r}")
    readers = [_opened(os.fspath(path)) for path in paths]
    specs = [_specs(reader) for reader in readers]
    for path, found in zip(paths, specs):
        _check_same(os.fspath(path), found, specs[-1])
    tf.io.gfile.makedirs(os.path.dirname(os.path.abspath(output)))
    variables = {
        name: tf.Variable(_mean(readers, name), dtype=dtype)
        for name, (dtype, _) in specs[-1].items()
    }
    variables[ITERATION] = tf.Variable(readers[-1].get_tensor(f"{ITERATION}{SUFFIX}"))
    return tf.train.Checkpoint(**nested(variables)).write(output)


def _opened(path):
    try:
        return tf.train.load_checkpoint(path)
    except (tf.errors.OpError, ValueError) as error:
        raise ValueError(
            f"`paths` must name checkpoints that can be read. Received: {path!r} ({error})"
        ) from error


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


def _mean(readers, name):
    last = np.asarray(readers[-1].get_tensor(f"{name}{SUFFIX}"))
    if np.issubdtype(last.dtype, np.integer) or last.dtype == bool:
        return last
    total = np.zeros(last.shape, np.float32)
    for reader in readers:
        total += np.asarray(reader.get_tensor(f"{name}{SUFFIX}")).astype(np.float32)
    return (total / np.float32(len(readers))).astype(last.dtype)
