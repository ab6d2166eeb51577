"""One update: forward, losses, gradients over all replicas, optimizer."""

import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.objectives.contrastive import contrastive
from limoe_tf.objectives.total import total
from limoe_tf.train import gradients


def forward(model, batch, weights, *, training):
    """Runs the model and its losses on this replica's part of a batch.

    Args:
      model: `call(batch, training) -> (embeddings, Report)`.
      batch: dict with `image`, `text` and `text_valid`.
      weights: dict of floats by loss name, for `total`.
      training: whether the model trains.

    Returns:
      The loss <float32>[] whose mean over replicas is that of the global batch, and a dict of logs
      that are the same on every replica: <float32>[], or <float32>[E] for counts per expert.

    Raises:
      ValueError: if the batch lacks one of the modalities.
    """
    missing = sorted({"image", "text"} - set(batch))
    if missing:
        raise ValueError(f"A batch must hold images and texts. Received: without {missing}")
    embeddings, report = model(batch, training=training)
    contrast = contrastive(embeddings["image"], embeddings["text"], embeddings["logit_scale"])
    loss = total({"contrastive": contrast.loss, **report.losses}, weights)
    shared = replicas.current().mean(tf.stack([loss, contrast.loss, contrast.accuracy]))
    logs = dict(zip(("loss", "contrastive", "accuracy"), tf.unstack(shared)))
    logs["temperature"] = 1 / embeddings["logit_scale"]
    logs.update(_mean_success_rates(report.metrics))
    return loss, {**logs, **report.losses, **report.metrics}


def _mean_success_rates(metrics):
    """Returns the success rates of each modality, averaged over layers."""
    rates = {}
    for name, value in metrics.items():
        kind = name.rsplit("/", 1)[-1]
        if kind.startswith("success_rate_"):
            rates.setdefault(kind, []).append(value)
    return {kind: tf.add_n(values) / len(values) for kind, values in rates.items()}


def differentiate(model, batch, weights):
    """Returns the logs of `forward` and the gradients of the global batch, before clipping.

    Args:
      model: see `forward`.
      batch: dict with `image`, `text` and `text_valid`.
      weights: dict of floats by loss name.

    Returns:
      dict of logs, with `gradient_norm`; and a list of <float32>[...], one a trainable variable.
    """
    variables = model.trainable_variables
    values = [variable.value for variable in variables]
    paths = [variable.path for variable in variables]
    with tf.GradientTape() as tape:
        # A stateless step has tensors in the place of variables, which no tape watches by itself.
        tape.watch(values)
        loss, logs = forward(model, batch, weights, training=True)
        share = loss / replicas.current().count
    found = gradients.reduced(tape.gradient(share, values), paths)
    logs["gradient_norm"] = tf.norm(gradients.norms(found, paths))
    return logs, found


def update(model, batch, weights):
    """Changes the model's weights by one step of its optimizer.

    Gradients are summed over replicas first and clipped then, by the optimizer.

    Args:
      model: compiled model; see `forward`.
      batch: dict with `image`, `text` and `text_valid`.
      weights: dict of floats by loss name.

    Returns:
      dict of logs, see `forward`, with `gradient_norm` (before clipping) and `learning_rate`.
    """
    logs, found = differentiate(model, batch, weights)
    logs["learning_rate"] = tf.cast(model.optimizer.learning_rate, tf.float32)
    model.optimizer.apply(found, model.trainable_variables)
    return logs
