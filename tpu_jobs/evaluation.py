"""Loads the model of an earlier run and the tasks that evaluate it."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf
from absl import flags

import gin
from limoe_tf.evaluate import run_tasks
from limoe_tf.model.contrastive import ContrastiveModel
from limoe_tf.train.checkpoint import Checkpoints
from tpu_jobs import command, experiment, gin_files


class Evaluation:
    """Tasks for the model of an earlier run; a gin file binds the argument.

    Args:
      tasks: as those of an `experiment.Experiment`.
    """

    def __init__(self, *, tasks: Mapping[str, Callable[..., dict[str, Any]]]):
        self.tasks = run_tasks.checked(tasks)


def read() -> tuple[experiment.Experiment, str, dict[str, str]]:
    """Returns the experiment that the flags select for evaluation.

    Gin files that describe an Experiment are used as they are. Those that describe an `Evaluation`
    specify the tasks, and without gin files the tasks are those of the run: in both cases the model
    is that of the `config.gin` in the folder of the run, and nothing that only training needs is
    read.

    Returns:
      Experiment, the folder of the run, and a dict of gin configurations equivalent to the flags.

    Raises:
      ValueError: if a flag or file is missing, the gin files are wrong, or there is no such TPU.
    """
    strategy, workdir = command.place()
    if not flags.FLAGS.gin_file:
        with strategy.scope():
            run = of_run(workdir, flags.FLAGS.gin_param)
        return run, workdir, {"run": gin.operative_config_str()}
    command.parse()
    with strategy.scope():
        if not _is_bound(Evaluation):
            run = gin_files.build()
            return run, workdir, {"run": gin.operative_config_str()}
        tasks = gin.get_configurable(Evaluation)().tasks
        gin_files.check_used()
        texts = {"tasks": gin.operative_config_str()}
        run = of_run(workdir, ["experiment.Experiment.tasks = {}"])
    run.tasks = tasks
    return run, workdir, {"run": gin.operative_config_str(), **texts}


def of_run(workdir: str, bindings: Iterable[str] = ()) -> experiment.Experiment:
    """Returns the Experiment of an earlier run, without its training.

    Args:
      workdir: folder of the run.
      bindings: additional bindings, which override those of its `config.gin`.

    Raises:
      ValueError: if there is no `config.gin`, or it does not match this version of the package.
    """
    path = os.path.join(workdir, "config.gin")
    if not tf.io.gfile.exists(path):
        raise ValueError(
            f"`workdir` must be the folder of a run, with its config.gin. Received: {workdir!r}"
        )
    training = ("optimizer", "train_source", "training_batches")
    none = [f"experiment.Experiment.{name} = None" for name in training]
    gin_files.parse([path], [*bindings, *none])
    return gin.get_configurable(experiment.Experiment)()


def restore(model: keras.Model, workdir: str, checkpoint: str | None = None) -> tuple[int, str]:
    """Restores the weights of a checkpoint of a run.

    Args:
      model: that of the run's Experiment.
      workdir: folder of the run.
      checkpoint: path of a checkpoint; None takes the newest that can be read.

    Returns:
      The step and the path of the checkpoint.

    Raises:
      ValueError: if there is no checkpoint, or it does not match the model.
      OSError: if it cannot be read.
    """
    folder = os.path.join(workdir, "checkpoints")
    checkpoints = Checkpoints(model, folder, weights_only=True)
    if checkpoint is not None:
        return checkpoints.restore(checkpoint), checkpoint
    if checkpoints.latest is None:
        raise ValueError(f"`workdir` must hold a checkpoint. Received: workdir={workdir!r}")
    step = checkpoints.restore_latest()
    return step, os.path.join(folder, f"ckpt-{step}")


def check_contrasts(model: keras.Model) -> None:
    """Raises ValueError unless a model contrasts images with texts, as the job needs it."""
    if not isinstance(model, ContrastiveModel):
        raise ValueError(
            "The run must be of a model that contrasts images with texts. "
            f"Received: {type(model).__name__}"
        )


def check_streams(model: keras.Model) -> None:
    """Raises ValueError unless a model says what its streams of images and texts are."""
    if not model.stream_keys:
        raise ValueError(
            f"The run must be of a Limoe, a TwoTower or a VlMoe. Received: {type(model).__name__}"
        )


def _is_bound(configurable):
    try:
        return bool(gin.get_bindings(configurable, resolve_references=False))
    except ValueError:  # No gin file mentions it.
        return False
