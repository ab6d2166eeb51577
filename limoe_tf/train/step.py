"""One update: forward, losses, gradients over all replicas, optimizer."""

import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.objectives.contrastive import contrastive
from limoe_tf.objectives.total import total


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
    everyone = replicas.current()
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        loss, logs = forward(model, batch, weights, training=True)
        share = loss / everyone.count
    gradients = tape.gradient(share, [variable.value for variable in variables])
    # The vocabulary's gradient comes as slices; sums and norms want it whole.
    gradients = everyone.sum([tf.convert_to_tensor(gradient) for gradient in gradients])
    logs["gradient_norm"] = tf.linalg.global_norm(gradients)
    logs["learning_rate"] = tf.cast(model.optimizer.learning_rate, tf.float32)
    model.optimizer.apply(gradients, variables)
    return logs
