"""The Keras model behind `fit`, `evaluate` and `predict` of models with losses of their own."""

import functools
import math
import types
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from limoe_tf.mesh import replicas, rows
from limoe_tf.objectives.total import check_weights, total
from limoe_tf.report import Report
from limoe_tf.train import arguments, compiled, freeze, loop, step
from limoe_tf.train.gradients import with_reduced_gradients
from limoe_tf.train.optimizer import is_expert


class TrainableModel(keras.Model):
    """A Keras model that is trained by the losses it reports itself.

    A subclass has `forward`, `infer`, `batch_spec` and the attributes below. If its experts are
    sharded, `expert_mesh` is their mesh.

    Args:
      companions: dict by name of the SHA-256 of files that the weights belong with, see
        `limoe_tf.companions`; a saved model keeps it.

    Attributes:
      default_weights: dict by name of the weights of all its losses.
      per_replica: names of the losses and metrics of `forward` that are those of the replica's own
        part of a batch, as far as it has them; their means over replicas are those of the batch.
      summary_logs: names of the logs whose means over an epoch `fit` shows, between the loss and
        the learning rate. Those that some models lack come last.
      progress_logs: names of the logs that a job's progress line shows behind the loss.
      data_options: dict of what decides the shapes of its batches: arguments of the function that
        makes them.
      stream_keys: dict by stream of the key under which a batch holds it.
      head_names: names of its parts that pretraining alone needs.
      compile_options: names of the arguments of `compile` that are this model's alone; attributes.
      per_expert: dict of the logs <float32>[E] of the last step that `fit` ran, if it was compiled
        with `detailed_logs`. They are no part of the logs: callbacks of Keras expect numbers.
    """

    default_weights: ClassVar[Mapping[str, float]] = {}
    per_replica: ClassVar[Sequence[str]] = ()
    summary_logs: ClassVar[Sequence[str]] = ()
    progress_logs: Sequence[str] = ()
    data_options: Mapping[str, Any] = types.MappingProxyType({})
    stream_keys: ClassVar[Mapping[str, str]] = {}
    head_names: ClassVar[Sequence[str]] = ()
    compile_options: ClassVar[Sequence[str]] = ()
    expert_mesh = None

    def __init__(self, *, companions: Mapping[str, str] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.companions = dict(companions or {})
        self.per_expert = {}
        # Lists of Keras hold them in this order.
        shown = ("loss", *self.summary_logs, "gradient_norm", "learning_rate")
        self._means = {name: keras.metrics.Mean(name=name) for name in shown}

    def forward(self, batch: Mapping[str, tf.Tensor], *, training: bool) -> Report:
        """Returns the Report of this replica's part of a batch, with all losses by name.

        Each has a weight under the last part of its name. Other losses and metrics than those of
        `per_replica` are the same on all replicas.
        """
        raise NotImplementedError

    def infer(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns what `predict` and `encode` give of this replica's part of a batch."""
        raise NotImplementedError

    def batch_spec(self, size: int | None) -> dict[str, tf.TensorSpec]:
        """Returns the specs of a batch of `size` examples by name."""
        raise NotImplementedError

    def loss_and_logs(
        self, report: Report, weights: Mapping[str, float]
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Returns what `step.forward` does, of the Report of `forward`."""
        loss, values = total(report.losses, weights), {**report.losses, **report.metrics}
        own = {name: values[name] for name in self.per_replica if name in values}
        own = {"loss": loss, **own}
        means = replicas.current().mean(tf.stack(list(own.values())))
        return loss, {**values, **dict(zip(own, tf.unstack(means)))}

    def differentiate(
        self, batch: Mapping[str, tf.Tensor], weights: Mapping[str, float]
    ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """Returns the logs of `step.forward` and the gradients of this replica's part of the loss.

        Args:
          batch: this replica's part of a batch.
          weights: dict of floats by loss name.

        Returns:
          dict of logs, and a list of <float>[...], one per trainable variable.
        """
        values = [variable.value for variable in self.trainable_variables]
        with tf.GradientTape() as tape:
            # A stateless step has tensors in place of variables, which no tape watches by itself.
            tape.watch(values)
            loss, logs = self.loss_and_logs(self.forward(batch, training=True), weights)
            share = loss / replicas.current().count
        # A batch need not meet all weights.
        none = tf.UnconnectedGradients.ZERO
        return logs, tape.gradient(share, values, unconnected_gradients=none)

    def check_values(self, batch: Mapping[str, Any]) -> None:
        """Raises unless the values of arrays, where they are known, can be those of a batch."""

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str,
        *,
        loss_weights: Mapping[str, float] | None = None,
        detailed_logs: bool = False,
        jit_compile: bool = False,
        **kwargs,
    ) -> None:
        """Prepares for training.

        Args:
          optimizer: Keras optimizer, or its name. One in use keeps its state, so that a part of the
            model can be frozen in between.
          loss_weights: dict of weights by loss name that differ from `default_weights`; 0 leaves a
            loss out.
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
        self.loss_weights = check_weights(loss_weights, self.default_weights)
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
            return self.infer(arguments.batch_of(data))

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
        """Returns a dict of <float>[B, ...] of a batch at inference, see `infer`, on all replicas.

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
        shown = {name: logs[name] for name in self._means if name in logs}
        for name, value in shown.items():
            self._means[name].update_state(value)
        means = {name: self._means[name].result() for name in shown}
        return {**means, "skipped": logs["skipped"]} if "skipped" in logs else means
