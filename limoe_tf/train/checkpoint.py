"""Checkpoints of a model and its optimizer, restored by variable name, completely or not at all."""

import json
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import tensorflow as tf

from limoe_tf import checks, companions
from limoe_tf.mesh import shards
from limoe_tf.train import compiled, freeze, matching, names
from limoe_tf.train.fit import ContrastiveModel
from limoe_tf.train.matching import SUFFIX
from limoe_tf.train.optimizer import is_expert

# Names: of the number of steps, and, as text, of the hashes of the files that the weights belong
# with, and of the frozen weights. Checkpoints of 0.1.0 have neither text.
ITERATION, COMPANIONS, FROZEN = "optimizer/iteration", "companions", "frozen"


class Checkpoints:
    """Saves a built Keras model, its optimizer and its random seeds, and restores the newest.

    Each variable is stored under the path of its layers, without the model's own name. Numbers that
    Keras gives to unnamed layers count from the model's first such layer, so a model made later in
    the same process fits, too. Keras' own object graph is not used: it misses layers held in lists.
    Restoring freezes weights that were frozen, and compiles a compiled model again if it must.

    Args:
      model: a Keras model whose variables exist. If it is compiled, its optimizer is built.
      directory: where the checkpoints are, on this machine or in a bucket (`gs://`).
      max_to_keep: number of checkpoints that are kept; older ones are deleted.
      weights_only: whether only the weights are restored, not the optimizer and the seeds. Nothing
        can then be saved. Always so for a model that is not compiled. If it is set, nothing is
        frozen that was frozen in the checkpoint.
      others: dict by name of more `tf.Variable`s of a run's state, ignored where only the weights
        are restored, and where a checkpoint has none of that name.

    Raises:
      ValueError: if the model is not built, or a number is out of range.
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
        if not model.built or not model.weights:
            raise ValueError(
                "`model` must be built: call it on a batch first. "
                f"Received: model={model.name!r} without variables"
            )
        self.directory = os.fspath(directory)
        self._optimizer = getattr(model, "optimizer", None)
        self._weights_only = weights_only or self._optimizer is None
        self._frees = weights_only
        named = names.of_weights(model) if self._weights_only else names.of_state(model)
        mesh = getattr(model, "expert_mesh", None)
        self._variables = {
            name: shards.as_whole(variable.value, mesh) if is_expert(name) else variable.value
            for name, variable in named.items()
        }
        self._others = set(others or {})
        if not self._weights_only:
            self._variables.update(others or {})
        self._model, self._companions = model, tf.Variable("{}", name=COMPANIONS)
        self._frozen = tf.Variable("[]", name=FROZEN)
        texts = {COMPANIONS: self._companions, FROZEN: self._frozen}
        self._manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(**nested({**self._variables, **texts})),
            self.directory,
            max_to_keep=checks.positive_int("max_to_keep", max_to_keep),
        )

    @property
    def latest(self) -> str | None:
        """The path of the newest checkpoint, or None."""
        return self._manager.latest_checkpoint

    def at(self, steps: Iterable[int]) -> list[str]:
        """Returns the paths of those of these steps' checkpoints that exist, oldest first."""
        paths = {_step_of(path): path for path in self._manager.checkpoints}
        return [paths[step] for step in sorted(steps) if step in paths]

    def check_writable(self) -> None:
        """Creates the directory and writes a file there, so that a run fails before training.

        Raises:
          ValueError: if that is not possible.
        """
        probe = os.path.join(self.directory, ".writable")
        try:
            tf.io.gfile.makedirs(self.directory)
            with tf.io.gfile.GFile(probe, "w") as file:
                file.write("")
            tf.io.gfile.remove(probe)
        except tf.errors.OpError as error:
            raise ValueError(
                "`directory` must be a place for files that can be written to. "
                f"Received: directory={self.directory!r} ({error.message})"
            ) from error

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
        try:
            return self._manager.save(checkpoint_number=int(self._optimizer.iterations.numpy()))
        except tf.errors.OpError as error:
            raise OSError(
                f"Could not write a checkpoint to {self.directory!r} ({error.message}). "
                f"The last whole one is {self.latest!r}."
            ) from error

    def restore_latest(self) -> int:
        """Restores the newest checkpoint that can be read completely.

        One that cannot be read, such as a truncated file, is skipped with a warning.

        Returns:
          The optimizer's steps at that checkpoint; 0 if there is none yet.

        Raises:
          ValueError: if the checkpoint is of another model, or none can be read.
        """
        return self._restore_first(self._manager.checkpoints[::-1])

    def restore_before(self, step: int, *, every_steps: int) -> int:
        """Restores the newest checkpoint that is older than a step, as `restore_latest` does.

        Those saved at a multiple of `every_steps` come first: a run that was stopped in between,
        and has a checkpoint of that step too, then restores the same one.

        Returns:
          The optimizer's steps at that checkpoint.

        Raises:
          ValueError: if there is none.
        """
        older = [path for path in self._manager.checkpoints[::-1] if _step_of(path) < step]
        if not older:
            raise ValueError(
                f"There must be a checkpoint of a step before {step} to go back to. "
                f"Received: directory={self.directory!r} with {self._manager.checkpoints}"
            )
        return self._restore_first(sorted(older, key=lambda p: _step_of(p) % every_steps > 0))

    def _restore_first(self, paths):
        for path in paths:
            try:
                return self.restore(path)
            except OSError as error:
                warnings.warn(f"Checkpoint {path!r} is passed over: {error}", stacklevel=2)
        if paths:
            raise ValueError(
                "`directory` must hold a checkpoint that can be read. "
                f"Received: directory={self.directory!r}, none of {paths} can"
            )
        return 0

    def restore(self, path: str | os.PathLike) -> int:
        """Restores the checkpoint at `path`; it must match every variable.

        Returns:
          The optimizer's steps at that checkpoint.

        Raises:
          ValueError: if the checkpoint does not fit; the variables concerned are named. So if the
            model belongs with another vocabulary than the weights in it.
          OSError: if it cannot be read.
        """
        try:
            reader = tf.train.load_checkpoint(os.fspath(path))
            frozen = _stored_frozen(reader)
            self._check_fit(path, reader, frozen)
            text = stored_companions(reader)
            companions.join_stored(self._model, text, place=repr(os.fspath(path)))
            status = self._manager.checkpoint.restore(os.fspath(path))
            status.expect_partial()
            self._freeze(frozen)
            return int(reader.get_tensor(f"{ITERATION}{SUFFIX}"))
        except (tf.errors.OpError, IndexError, RuntimeError) as error:
            # TensorFlow's reader raises IndexError for a truncated file.
            raise OSError(f"Cannot read checkpoint {os.fspath(path)!r}: {error}") from error

    def _check_fit(self, path, reader, frozen):
        matching.check(
            path,
            reader,
            self._variables,
            optional=self._others,
            frozen={*frozen, *freeze.frozen(self._model)},
            weights_only=self._weights_only,
        )

    def _freeze(self, frozen):
        """Freezes what was frozen in the checkpoint; what is frozen already stays so."""
        model = self._model
        if self._frees or not set(frozen) - set(freeze.frozen(model)):
            return
        freeze.by_name(model, frozen)
        if isinstance(model, ContrastiveModel) and model.compiled:
            compiled.again(model)


def stored_companions(reader: Any) -> str:
    """Returns what a checkpoint's weights belong with, as text, see `companions.stored`."""
    name = f"{COMPANIONS}{SUFFIX}"
    return reader.get_tensor(name).decode() if reader.has_tensor(name) else "{}"


def _stored_frozen(reader):
    """Returns the names of the weights that were frozen."""
    name = f"{FROZEN}{SUFFIX}"
    return json.loads(reader.get_tensor(name)) if reader.has_tensor(name) else []


def _step_of(path):
    return int(path.rpartition("-")[2])


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
