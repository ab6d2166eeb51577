"""One update: forward, losses, gradients over all replicas, optimizer."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from limoe_tf.train import gradients, guard


def forward(
    model: keras.Model,
    batch: Mapping[str, tf.Tensor],
    weights: Mapping[str, float],
    *,
    training: bool,
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Runs the model and its losses on this replica's part of a batch.

    Args:
      model: compiled `fit.TrainableModel`.
      batch: dict of the model's inputs.
      weights: dict of floats by loss name, for `total`.
      training: whether the model is called in training mode.

    Returns:
      The loss <float32>[] whose mean over replicas is that of the global batch, and a dict of logs
      that are the same on every replica: <float32>[], or <float32>[E] for counts per expert.
    """
    return model.loss_and_logs(model.forward(batch, training=training), weights)


def differentiate(
    model: keras.Model, batch: Mapping[str, tf.Tensor], weights: Mapping[str, float]
) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
    """Returns the logs of `forward` and the gradients of the global batch, before clipping.

    Args:
      model: see `forward`.
      batch: dict of the model's inputs.
      weights: dict of floats by loss name.

    Returns:
      dict of logs, with `gradient_norm`; and a list of <float32>[...], one per trainable variable.
    """
    logs, found = model.differentiate(batch, weights)
    paths = [variable.path for variable in model.trainable_variables]
    found = gradients.reduced(found, paths)
    logs["gradient_norm"] = tf.norm(gradients.norms(found, paths))
    return logs, found


def update(
    model: keras.Model, batch: Mapping[str, tf.Tensor], weights: Mapping[str, float]
) -> dict[str, tf.Tensor]:
    """Changes the model's weights by one step of its optimizer.

    Gradients are summed over replicas, then clipped by the optimizer. If the loss or the
    gradient is not finite the step is skipped, on all replicas: see `guard`.

    Args:
      model: compiled model; see `forward`.
      batch: dict of the model's inputs.
      weights: dict of floats by loss name.

    Returns:
      dict of logs, see `forward`, with `gradient_norm` (before clipping), `learning_rate`, and
      `skipped` (1 or 0).
    """
    logs, found = differentiate(model, batch, weights)
    logs["learning_rate"] = tf.cast(model.optimizer.learning_rate, tf.float32)
    finite = tf.math.is_finite(logs["loss"]) & tf.math.is_finite(logs["gradient_norm"])
    logs["skipped"] = 1.0 - tf.cast(finite, tf.float32)
    found = gradients.scaled(found, logs["gradient_norm"], model.optimizer)
    guard.apply(model, found, finite=finite)
    return logs
