"""Evaluation during `fit`: the results of tasks are added to the logs."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras

from limoe_tf import checks
from limoe_tf.evaluate import run_tasks
from limoe_tf.evaluate.results import flatten
from limoe_tf.train.steps import StepCount


class EvaluateCallback(keras.callbacks.Callback):
    """Runs evaluation tasks every few epochs or steps and adds their results to the logs.

    A task called "zero_shot" that returns `{"seen": {"top_1": 0.9}}` logs "zero_shot/seen/top_1".
    Keras passes one dict of logs from callback to callback: those that read the results
    (TensorBoard, early stopping) must follow this one in the list given to `fit`. With
    `every_steps` the results are in the logs of that step, and the latest in those of the epoch.
    A task that fails is named in a warning; the other tasks, and training, go on.

    Args:
      tasks: dict of name to function; a task is called with the model and returns a dict, possibly
        nested, of floats.
      every_epochs: epochs between two evaluations. Give this or `every_steps`.
      every_steps: training steps between two evaluations, counted by the optimizer, and so across
        epochs and restarts.

    Raises:
      TypeError: if a task is not callable.
      ValueError: if a task's name is reserved, or not exactly one of `every_epochs` and
        `every_steps` is given.
    """

    def __init__(
        self,
        tasks: Mapping[str, Callable[[keras.Model], dict[str, Any]]],
        *,
        every_epochs: int | None = None,
        every_steps: int | None = None,
    ):
        super().__init__()
        if (every_epochs is None) == (every_steps is None):
            raise ValueError(
                "Exactly one of `every_epochs` and `every_steps` must be given. "
                f"Received: every_epochs={every_epochs}, every_steps={every_steps}"
            )
        self.tasks = run_tasks.checked(tasks)
        self.every_epochs = every_epochs
        self.every_steps = every_steps
        self._latest = {}
        if every_epochs is not None:
            checks.positive_int("every_epochs", every_epochs)
        else:
            checks.positive_int("every_steps", every_steps)
            # Set here, not defined in the class: this hook makes Keras wait for every step, which
            # evaluation by epochs does not need.
            self.on_train_batch_end = self._count_steps

    def evaluate(self) -> dict[str, float]:
        """Returns the results of all tasks, under their flat names.

        A task that fails has none; a warning names it.
        """
        found = run_tasks.run(self.tasks, self.model)
        for name, reason in found.pop("failed", {}).items():
            warnings.warn(f"Task {name!r} failed: {reason}", stacklevel=2)
        numbers = flatten(found)
        return {name: float(value) for name, value in numbers.items()}

    def on_train_begin(self, logs=None):
        self._latest = {}

    def on_epoch_begin(self, epoch, logs=None):
        self._count = StepCount(self.model)

    def _count_steps(self, batch, logs=None):
        self._count.advance()
        if self._count.passes(self.every_steps):
            self._latest = self.evaluate()
            if logs is not None:
                logs.update(self._latest)

    def on_epoch_end(self, epoch, logs=None):
        if self.every_epochs is not None:
            self._latest = self.evaluate() if (epoch + 1) % self.every_epochs == 0 else {}
        if logs is not None:
            logs.update(self._latest)
