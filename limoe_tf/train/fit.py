"""The Keras model behind `fit`, `evaluate` and `predict` of image-text models."""

import functools
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.mesh import replicas, rows
from limoe_tf.objectives.total import check_weights
from limoe_tf.train import losses, step
from limoe_tf.train.gradients import with_reduced_gradients
from limoe_tf.train.optimizer import is_expert

SUMMARY = (
    "loss",
    "contrastive",
    "accuracy",
    "success_rate_image",
    "success_rate_text",
    "temperature",
    "gradient_norm",
    "learning_rate",
)


class ContrastiveModel(keras.Model):
    """A Keras model trained by contrasting images with texts.

    A subclass has `call(batch, training) -> (embeddings, Report)`, with `embeddings` a dict of
    `image` and `text` <float32>[B, Z] and `logit_scale` <float32>[]; with `logit_bias` <float32>[]
    among them, the loss is the sigmoid one. If its experts are sharded, `expert_mesh` is their
    mesh.

    Args:
      companions: dict by name of the SHA-256 of files that the weights belong with, see
        `limoe_tf.companions`; a saved model keeps it.
    """

    expert_mesh = None
    same_text_positives = False
    num_slices = 1

    def __init__(self, *, companions: Mapping[str, str] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.companions = dict(companions or {})
        self._means = {name: keras.metrics.Mean(name=name) for name in SUMMARY}

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
          optimizer: Keras optimizer, or its name.
          loss_weights: dict of weights by loss name that differ from
            `objectives.total.DEFAULT_WEIGHTS`; 0 leaves a loss out.
          same_text_positives: whether pairs of a batch with equal texts count as positives of each
            other, see `objectives.contrastive`. In the paper they do not.
          num_slices: number of slices (microbatches) of a replica's batch, computed one after
            another in less memory, with the gradients of the whole batch: see `accumulate`. Unlike
            `gradient_accumulation_steps` of Keras' optimizers, which sums over batches, this is one
            update from one batch, whose pairs are all contrasted. The forward pass of each slice
            runs twice. Routing groups lie within slices: results with and without slices agree if
            `group_size` divides both the batch and a slice.
          detailed_logs: if False, `fit` logs the means of a few numbers over the epoch, as Keras
            does, and whether the last step was skipped because a number was not finite. If True it
            logs every loss and metric of every layer as of the last step.
          jit_compile: whether XLA compiles the step. On CPUs the graph is faster without.
          **kwargs: `run_eagerly` and `steps_per_execution` of `keras.Model.compile`.
        """
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        with_reduced_gradients(self.optimizer)
        with self.distribute_strategy.scope():
            self.optimizer.build(self.trainable_variables)
        self.loss_weights = check_weights(loss_weights)
        self.same_text_positives = same_text_positives
        self.num_slices = checks.positive_int("num_slices", num_slices)
        self.detailed_logs = detailed_logs

    def get_config(self):
        config = super().get_config()
        return {**config, "companions": dict(self.companions)} if self.companions else config

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            "optimizer": keras.saving.serialize_keras_object(self.optimizer),
            "loss_weights": self.loss_weights,
            "same_text_positives": self.same_text_positives,
            "num_slices": self.num_slices,
            "detailed_logs": self.detailed_logs,
            "jit_compile": self.jit_compile,
            "run_eagerly": self.run_eagerly,
            "steps_per_execution": self.steps_per_execution,
        }

    def compile_from_config(self, config):
        optimizer = keras.saving.deserialize_keras_object(config.pop("optimizer"))
        self.compile(optimizer, **config)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing: the constructor and `compile` have built everything.

        Keras would read a batch for it, and under tf.distribute average its ids and flags.
        """

    def _make_function(self, step_function):
        """Returns the function of an iterator that runs several steps, on any number of replicas.

        Keras' own loop over steps raises under tf.distribute.
        """
        if self.steps_per_execution == 1 or self.run_eagerly:
            return super()._make_function(step_function)
        strategy = self.distribute_strategy
        if self.jit_compile:
            step_function = tf.function(step_function, jit_compile=True, autograph=False)

        # No tf.function unless XLA needs one: called within `tf.cond` in a loop it loses arguments.
        def one_step(batch):
            logs = strategy.run(step_function, args=(batch,))
            # Every replica has the same logs.
            return {name: strategy.experimental_local_results(v)[0] for name, v in logs.items()}

        def next_step(number, ended, logs, iterator):
            following = iterator.get_next_as_optional()
            ended = tf.logical_not(following.has_value())
            logs = tf.cond(ended, lambda: logs, lambda: one_step(following.get_value()))
            return number + 1, ended, logs

        @tf.function(reduce_retracing=True, autograph=False)
        def several_steps(iterator):
            _, _, logs = tf.while_loop(
                lambda number, ended, _: (number < self.steps_per_execution) & ~ended,
                functools.partial(next_step, iterator=iterator),
                (1, False, one_step(iterator.get_next())),
            )
            return logs

        return several_steps

    def train_step(self, data) -> dict[str, tf.Tensor]:
        with self.on_replicas():
            logs = step.update(self, self._batch(data), self.loss_weights)
        return logs if self.detailed_logs else self._averaged(logs)

    def test_step(self, data) -> dict[str, tf.Tensor]:
        with self.on_replicas():
            _, logs = step.forward(self, self._batch(data), self.loss_weights, training=False)
        return self._averaged(logs)

    def predict_step(self, data) -> dict[str, tf.Tensor]:
        with self.on_replicas():
            embeddings, _ = self(self._batch(data), training=False)
        return {name: e for name, e in embeddings.items() if name not in losses.SCALARS}

    @property
    def num_parameters(self) -> int:
        """Number of trainable parameters, with the experts of all replicas."""
        shards = 1 if self.expert_mesh is None else self.expert_mesh.num_shards
        return sum(
            math.prod(v.shape) * (shards if is_expert(v.path) else 1)
            for v in self.trainable_variables
        )

    def encode(self, batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns a dict of embeddings <float32>[B, Z] of a batch at inference, on all replicas.

        Each new size of a batch is traced once; replicas get shares of one size.
        """
        return rows.over_all(self.distribute_strategy, self._encode_share, batch)

    @functools.cached_property
    def _encode_share(self):
        # A mesh needs static shapes.
        static = self.expert_mesh is not None or self.distribute_strategy.num_replicas_in_sync > 1
        return tf.function(self.predict_step, reduce_retracing=not static, autograph=False)

    def on_replicas(self) -> AbstractContextManager:
        """Returns a context manager that sets the replica context of a step."""
        return replicas.scope(replicas.of_strategy(self.expert_mesh))

    def _batch(self, data):
        if isinstance(data, (tuple, list)) and len(data) == 1:
            data = data[0]
        if not isinstance(data, dict):
            raise TypeError(
                "Batches must be dicts with `image`, `text` and `text_valid`. "
                f"Received: {type(data).__name__}"
            )
        return data

    def _averaged(self, logs):
        shown = {name: logs[name] for name in SUMMARY if name in logs}
        for name, value in shown.items():
            self._means[name].update_state(value)
        means = {name: self._means[name].result() for name in shown}
        return {**means, "skipped": logs["skipped"]} if "skipped" in logs else means
