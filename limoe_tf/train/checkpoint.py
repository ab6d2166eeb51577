"""Checkpoints of a model and its optimizer, restored by variable name, completely or not at all."""

import json
import os
import warnings
from collections.abc import Iterable, Mapping

import keras
import tensorflow as tf

from limoe_tf import checks, companions
from limoe_tf.train import checkpoint_files, compiled, freeze, names, run_folder
from limoe_tf.train.checkpoint_files import COMPANIONS, FROZEN, LEARNING_RATE, SUFFIX
from limoe_tf.train.fit import TrainableModel


class Checkpoints:
    """Saves a built Keras model, its optimizer and its random seeds, and restores the newest.

    Each variable is stored under the path of its layers, without the model's own name. Numbers that
    Keras gives to unnamed layers count from the model's first such layer, so a model made later in
    the same process fits, too. Keras' own object graph is not used: it misses layers held in lists.
    Restoring freezes weights that were frozen, and compiles a compiled model again if it must.

    A checkpoint holds, by the beginnings of its names:

        model/      the weights, trained and not
        optimizer/  `iteration`, which is the step, the slots, and a learning rate that is a number
        seeds/      the states of random generators
        run/        `others`
        companions  the hashes of the files that the weights belong with, see `limoe_tf.companions`
        frozen      the names of the weights that are frozen

    The first three must be what the model has, name by name. What an earlier version did not write
    of the others is no fault: those of `others` keep their values. The learning rate is written
    for those who look, and never restored: the rate that the model was compiled with holds.

    Args:
      model: a Keras model whose variables exist. If it is compiled, its optimizer is built.
      directory: where the checkpoints are, on this machine or in a bucket (`gs://`).
      max_to_keep: number of checkpoints that are kept; older ones are deleted.
      weights_only: whether only the weights are restored, not the optimizer and the seeds. Nothing
        can then be saved. Always so for a model that is not compiled. If it is set, nothing is
        frozen that was frozen in the checkpoint.
      others: dict by name, which begins with "run/", of more `tf.Variable`s of a run's state,
        ignored where only the weights are restored, and where a checkpoint has none of that name.

    Raises:
      ValueError: if the model is not built, a number is out of range, or TensorFlow would take the
        directory for a pattern.
    """

    def __init__(
        self,
        model: keras.Model,
        directory: str | os.PathLike,
        *,
        max_to_keep: int = 3,
        weights_only: bool = False,
        others: Mapping[str, tf.Variable] | None = None,
    ):
        names.check_built(model)
        self.directory = checks.plain_path("directory", directory)
        self._max_to_keep = checks.positive_int("max_to_keep", max_to_keep)
        self._optimizer = getattr(model, "optimizer", None)
        self._weights_only = weights_only or self._optimizer is None
        self._keeps_frozen = not weights_only
        named = names.of_weights(model) if self._weights_only else names.of_state(model)
        self._variables = names.whole(model, named)
        if not self._weights_only:
            self._variables.update(others or {})
        self._model, self._companions = model, tf.Variable("{}", name=COMPANIONS)
        self._frozen = tf.Variable("[]", name=FROZEN)
        texts = {COMPANIONS: self._companions, FROZEN: self._frozen}
        self._wanted = {name: v for name, v in self._variables.items() if name != LEARNING_RATE}
        self._written = tf.train.Checkpoint(**checkpoint_files.nested({**self._variables, **texts}))
        self._restored = tf.train.Checkpoint(**checkpoint_files.nested(self._wanted))

    @property
    def latest(self) -> str | None:
        """The path of the newest checkpoint, or None."""
        steps = checkpoint_files.steps_in(self.directory)
        return self._path(steps[-1]) if steps else None

    def at(self, steps: Iterable[int]) -> list[str]:
        """Returns the paths of those of these steps' checkpoints that exist, oldest first."""
        steps = set(steps)
        there = checkpoint_files.steps_in(self.directory)
        return [self._path(step) for step in there if step in steps]

    def _path(self, step):
        return checkpoint_files.path_of(self.directory, step)

    def check_writable(self) -> None:
        """Checks that the directory can be written to; see `run_folder.check_writable`."""
        run_folder.check_writable(self.directory)

    def save(self) -> str:
        """Writes a checkpoint numbered by the optimizer's steps; returns its path.

        Raises:
          ValueError: if the model is not compiled, or `weights_only` is set.
          OSError: if it cannot be written; earlier checkpoints stay as they are.
        """
        if self._weights_only:
            raise ValueError(
                "`model` must be compiled, and weights_only=False, to be saved with its optimizer. "
                f"Received: optimizer={self._optimizer!r}"
            )
        self._companions.assign(companions.stored(self._model))
        self._frozen.assign(json.dumps(freeze.frozen(self._model)))
        step = int(self._optimizer.iterations.numpy())
        try:
            path = self._written.write(self._path(step))
            self._name_newest(step)
        except tf.errors.OpError as error:
            raise OSError(
                f"Could not write a checkpoint to {self.directory!r} ({error.message}). "
                f"The last whole one is {self.latest!r}."
            ) from error
        return path

    def _name_newest(self, step):
        """Writes the state file, and deletes what is too old."""
        # A later one was skipped as damaged; it is overwritten when the run reaches that step.
        steps = [one for one in checkpoint_files.steps_in(self.directory) if one <= step]
        kept = steps[-self._max_to_keep :]
        checkpoint_files.write_state_file(self.directory, kept)
        checkpoint_files.delete(self.directory, set(steps) - set(kept))

    def restore_latest(self) -> int:
        """Restores the newest checkpoint that can be read completely.

        One that cannot be read, such as a truncated file, is skipped with a warning.

        Returns:
          The optimizer's steps at that checkpoint; 0 if there is none yet.

        Raises:
          ValueError: if the checkpoint is of another model, none can be read, or only parts of one
            are there.
        """
        steps = checkpoint_files.steps_in(self.directory)
        if not steps:
            checkpoint_files.check_nothing_lost(self.directory)
            return 0
        if fault := checkpoint_files.fault_of_state_file(self.directory):
            warnings.warn(
                f"{fault}; what counts are the files, of which the newest is "
                f"{self._path(steps[-1])!r}.",
                stacklevel=2,
            )
        return self._restore_first(steps[::-1])

    def restore_before(self, step: int, *, every_steps: int) -> int:
        """Restores the newest checkpoint that is older than a step, as `restore_latest` does.

        Those saved at a multiple of `every_steps` come first: a run that was stopped in between,
        and has a checkpoint of that step too, then restores the same one.

        Returns:
          The optimizer's steps at that checkpoint.

        Raises:
          ValueError: if there is none.
        """
        steps = checkpoint_files.steps_in(self.directory)[::-1]
        older = [one for one in steps if one < step]
        if not older:
            raise ValueError(
                f"There must be a checkpoint of a step before {step} to go back to. "
                f"Received: directory={self.directory!r} with those of steps {steps}"
            )
        return self._restore_first(sorted(older, key=lambda one: one % every_steps > 0))

    def _restore_first(self, steps):
        for path in map(self._path, steps):
            try:
                return self.restore(path)
            except OSError as error:
                warnings.warn(f"Checkpoint {path!r} is skipped: {error}", stacklevel=3)
        raise ValueError(
            "`directory` must hold a checkpoint that can be read. "
            f"Received: directory={self.directory!r}, none of steps {steps} can"
        )

    def restore(self, path: str | os.PathLike) -> int:
        """Restores the checkpoint at `path`; it must match every variable.

        Returns:
          The optimizer's steps at that checkpoint.

        Raises:
          ValueError: if the checkpoint does not fit; the variables concerned are named. So if the
            model belongs with another vocabulary than the weights in it.
          OSError: if it cannot be read, or is named after another step; some variables may have
            been restored by then.
        """
        reader, step = checkpoint_files.opened(path)
        try:
            frozen = json.loads(checkpoint_files.text_in(reader, FROZEN, "[]"))
            checkpoint_files.check_matches(
                path,
                reader,
                self._wanted,
                kinds=("model/",) if self._weights_only else ("model/", "optimizer/", "seeds/"),
                frozen={*frozen, *freeze.frozen(self._model)},
            )
            text = checkpoint_files.text_in(reader, COMPANIONS, "{}")
            companions.join_stored(self._model, text, place=repr(os.fspath(path)))
            self._restored.restore(os.fspath(path)).expect_partial()
        except (tf.errors.OpError, IndexError, RuntimeError) as error:
            raise OSError(f"Cannot read checkpoint {os.fspath(path)!r}: {error}") from error
        self._freeze(frozen)
        self._warn_of_learning_rate(path, reader)
        return step

    def _freeze(self, frozen):
        """Freezes what was frozen in the checkpoint; what is frozen already stays so."""
        model = self._model
        if not self._keeps_frozen or not set(frozen) - set(freeze.frozen(model)):
            return
        freeze.by_name(model, frozen)
        if isinstance(model, TrainableModel) and model.compiled:
            compiled.again(model)

    def _warn_of_learning_rate(self, path, reader):
        if LEARNING_RATE not in self._variables or not reader.has_tensor(LEARNING_RATE + SUFFIX):
            return
        before = float(reader.get_tensor(LEARNING_RATE + SUFFIX))
        now = float(self._variables[LEARNING_RATE].numpy())
        if now != before:
            warnings.warn(
                f"The learning rate is {now:.6g}, as compiled, and not {before:.6g} as in "
                f"checkpoint {os.fspath(path)!r}.",
                stacklevel=3,
            )
