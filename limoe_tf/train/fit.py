"""The Keras model behind `fit`, `evaluate` and `predict` of image-text models."""

import functools
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.mesh import replicas, rows
from limoe_tf.objectives.total import check_weights
from limoe_tf.train import arguments, compiled, freeze, loop, losses, step
from limoe_tf.train.gradients import with_reduced_gradients
from limoe_tf.train.optimizer import is_expert

# In the order in which lists of Keras hold them; those that a model may lack come last.
SUMMARY = (
    "loss", "contrastive", "accuracy", "temperature", "success_rate_image", "success_rate_text",
    "gradient_norm", "learning_rate",
)  # fmt: skip


class ContrastiveModel(keras.Model):
    """A Keras model trained by contrasting images with texts.

    A subclass has `call(batch, training) -> (embeddings, Report)`, with `embeddings` a dict of
    `image` and `text` <float32>[B, Z] and `logit_scale` <float32>[]; with `logit_bias` <float32>[]
    among them, the loss is the sigmoid one. If its experts are sharded, `expert_mesh` is their
    mesh.

    Args:
      companions: dict by name of the SHA-256 of files that the weights belong with, see
        `limoe_tf.companions`; a saved model keeps it.

    Attributes:
      per_expert: dict of the logs <float32>[E] of the last step that `fit` ran, if it was compiled
        with `detailed_logs`. They are no part of the logs: callbacks of Keras expect numbers.
    """

    expert_mesh = None
    same_text_positives = False
    num_slices = 1

    def __init__(self, *, companions: Mapping[str, str] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.companions = dict(companions or {})
        self.per_expert = {}
        self._means = {name: keras.metrics.Mean(name=name) for name in SUMMARY}

    def check_values(self, batch: Mapping[str, Any]) -> None:
        """Raises unless the values of arrays, where they are known, can be those of a batch."""

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str,
        *,
        loss_weights: Mapping[str, float] | None = None,
        same_text_positives: bool = False,
        num_slices: int = 1,
        detailed_logs: bool = False,
        jit_compile: bool = False,
        **kwargs,
    ) -> None:
        """Prepares for training.

        Args:
          optimizer: Keras optimizer, or its name. One in use keeps its state, so that a part of the
            model can be frozen in between.
          loss_weights: dict of weights by loss name that differ from
            `objectives.total.DEFAULT_WEIGHTS`; 0 leaves a loss out.
          same_text_positives: whether pairs of a batch with equal texts count as positives of each
            other, see `objectives.contrastive`. In the paper they do not.
          num_slices: number of slices (microbatches) of a replica's batch, computed one after
            another in less memory, with the gradients of the whole batch: see `accumulate`. The
            forward pass of each slice runs twice. Routing groups lie within slices: results with
            and without slices agree if `group_size` divides both the batch and a slice.
          detailed_logs: if False, `fit` logs the means of a few numbers over the epoch, as Keras
            does, and whether the last step was skipped because a number was not finite. If True it
            logs every loss and metric of every layer as of the last step, those with a value per
            expert in `per_expert`.
          jit_compile: whether XLA compiles the step. On CPUs the graph is faster without.
          **kwargs: `run_eagerly` and `steps_per_execution` of `keras.Model.compile`.

        Raises:
          ValueError: if a loss or metrics of Keras are given, or an optimizer that accumulates
            gradients, scales the loss, or is in use for other variables.
        """
        arguments.check_compile(kwargs)
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        with_reduced_gradients(self.optimizer, self.trainable_variables)
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        self.loss_weights = check_weights(loss_weights)
        self.same_text_positives = same_text_positives
        self.num_slices = checks.positive_int("num_slices", num_slices)
        self.detailed_logs = detailed_logs
        self.trained_when_compiled = freeze.trained(self)

    def freeze(self, patterns: str | Sequence[str]) -> list[str]:
        """Freezes the weights whose names match; to be followed by `compile`.

        A frozen sparse layer works as at inference. Saved models and checkpoints keep what is
        frozen.

        Args:
          patterns: one or several regular expressions, each found somewhere in a name such as
            "encoder/block_01/moe/router/kernel".

        Returns:
          The names of the weights that match.

        Raises:
          ValueError: if a pattern matches nothing.
        """
        return freeze.by_pattern(self, patterns)

    def unfreeze(self, patterns: str | Sequence[str] = ".") -> list[str]:
        """Trains the weights whose names match again, see `freeze`; to be followed by `compile`."""
        return freeze.undo(self, patterns)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The means over an epoch; Keras' own, of its losses, stay without use."""
        return list(self._means.values())

    def get_config(self):
        kept = {"companions": dict(self.companions), "frozen": freeze.frozen(self)}
        return {**super().get_config(), **{name: value for name, value in kept.items() if value}}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = {**config, "trainable": True}  # What is created frozen cannot be unfrozen.
        frozen = config.pop("frozen", ())
        model = super().from_config(config, custom_objects)
        freeze.by_name(model, frozen)
        return model

    def save(self, filepath, *args, **kwargs) -> None:
        """As `keras.Model.save`, of a `.keras` file alone."""
        arguments.check_file(filepath)
        super().save(filepath, *args, **kwargs)

    def export(self, *args, **kwargs):
        """Raises NotImplementedError: `limoe_tf.export.saved_model.export` also takes texts."""
        raise NotImplementedError(arguments.NO_EXPORT)

    def get_compile_config(self):
        return compiled.config(self) if self.compiled else None

    def compile_from_config(self, config):
        compiled.from_config(self, config)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing: the constructor and `compile` have built everything.

        Keras would read a batch for it, and under tf.distribute average its ids and flags.
        """

    def _make_function(self, step_function):
        by_keras = super()._make_function(step_function)
        return loop.several_steps(self, step_function, by_keras)

    def make_train_function(self, force=False):
        freeze.check_as_compiled(self)
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = functools.partial(self._numbers, self.train_function)
        return self.train_function

    def _numbers(self, train_function, iterator):
        """Runs `train_function`; returns the logs that are numbers and keeps those per expert."""
        logs = train_function(iterator)
        self.per_expert = {name: value for name, value in logs.items() if value.shape.rank}
        return {name: value for name, value in logs.items() if name not in self.per_expert}

    def fit(self, *args, **kwargs) -> keras.callbacks.History:
        """As `keras.Model.fit`; targets and weights are refused."""
        return arguments.called(super().fit, args, kwargs)

    def evaluate(self, *args, **kwargs):
        """As `keras.Model.evaluate`; targets and weights are refused."""
        return arguments.called(super().evaluate, args, kwargs)

    def predict(self, *args, **kwargs) -> dict[str, np.ndarray]:
        """As `keras.Model.predict`; targets and weights are refused."""
        return arguments.called(super().predict, args, kwargs)

    def train_on_batch(self, *args, **kwargs):
        """As `keras.Model.train_on_batch`; targets and weights are refused."""
        return arguments.called(super().train_on_batch, args, kwargs)

    def test_on_batch(self, *args, **kwargs):
        """As `keras.Model.test_on_batch`; targets and weights are refused."""
        return arguments.called(super().test_on_batch, args, kwargs)

    def predict_on_batch(self, *args, **kwargs) -> dict[str, np.ndarray]:
        """As `keras.Model.predict_on_batch`."""
        return arguments.called(super().predict_on_batch, args, kwargs)

    def train_step(self, data) -> dict[str, tf.Tensor]:
        if not self.trainable_variables:
            raise ValueError("A model must have weights to train. Received: all are frozen")
        with self.on_replicas():
            logs = step.update(self, arguments.batch_of(data), self.loss_weights)
        return logs if self.detailed_logs else self._averaged(logs)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        with self.on_replicas():
            _, logs = step.forward(
                self, arguments.batch_of(data), self.loss_weights, training=False
            )
        return self._averaged(logs)

    def predict_step(self, data) -> dict[str, tf.Tensor]:
        with self.on_replicas():
            embeddings, _ = self(arguments.batch_of(data), training=False)
        return {name: e for name, e in embeddings.items() if name not in losses.SCALARS}

    @property
    def num_parameters(self) -> int:
        """Number of parameters, frozen ones too, with the experts of all replicas."""
        shards = 1 if self.expert_mesh is None else self.expert_mesh.num_shards
        return sum(
            math.prod(v.shape) * (shards if is_expert(v.path) else 1)
            for v in self.weights
            if keras.backend.is_float_dtype(v.dtype)
        )

    def encode(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns a dict of embeddings <float32>[B, Z] of a batch at inference, on all replicas.

        Each new size of a batch is traced once; replicas get shares of one size.
        """
        self.check_values(batch)
        return rows.over_all(self.distribute_strategy, self._encode_share, batch)

    @functools.cached_property
    def _encode_share(self):
        # A mesh needs static shapes.
        static = self.expert_mesh is not None or self.distribute_strategy.num_replicas_in_sync > 1
        return tf.function(self.predict_step, reduce_retracing=not static, autograph=False)

    def on_replicas(self) -> AbstractContextManager:
        """Returns a context manager that sets the replica context of a step."""
        return replicas.scope(replicas.of_strategy(self.expert_mesh))

    def _averaged(self, logs):
        shown = {name: logs[name] for name in SUMMARY if name in logs}
        for name, value in shown.items():
            self._means[name].update_state(value)
        means = {name: self._means[name].result() for name in shown}
        return {**means, "skipped": logs["skipped"]} if "skipped" in logs else means
