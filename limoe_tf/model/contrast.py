"""The contrastive loss of a model's embeddings, and the Report with it."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from limoe_tf.objectives.contrastive import Contrast, contrastive
from limoe_tf.objectives.sigmoid import sigmoid_contrastive
from limoe_tf.report import Report, mean_success_rates

# What a model returns beside its embeddings; the bias only with the sigmoid loss.
SCALARS = ("logit_scale", "logit_bias")


def check_modalities(batch: Mapping[str, tf.Tensor]) -> None:
    """Raises ValueError if the batch lacks images or texts."""
    missing = sorted({"image", "text"} - set(batch))
    if missing:
        raise ValueError(f"A batch must hold images and texts. Received: without {missing}")


def contrast_of(
    model: keras.Model, embeddings: Mapping[str, tf.Tensor], batch: Mapping[str, tf.Tensor]
) -> Contrast:
    """Returns the Contrast of this replica's pairs: the sigmoid loss if there is a bias.

    Args:
      model: `contrastive.ContrastiveModel`, whose `same_text_positives` decides what is a positive.
      embeddings: dict of `image` and `text` <float32>[B, Z], `logit_scale` <float32>[] and, for the
        sigmoid loss, `logit_bias` <float32>[].
      batch: dict with `text`.
    """
    inputs = [embeddings[name] for name in ("image", "text", *SCALARS) if name in embeddings]
    tokens = batch["text"] if model.same_text_positives else None
    if "logit_bias" in embeddings:
        return sigmoid_contrastive(*inputs, tokens=tokens, num_chunks=model.num_slices)
    return contrastive(*inputs, tokens=tokens)


def joined(contrast: Contrast, scalars: Mapping[str, tf.Tensor], parts: Report) -> Report:
    """Returns the Report of the whole forward pass.

    Args:
      contrast: `Contrast`.
      scalars: dict of `SCALARS` <float32>[].
      parts: `Report` of the layers.
    """
    metrics = {"accuracy": contrast.accuracy, "temperature": 1 / scalars["logit_scale"]}
    if "logit_bias" in scalars:
        metrics["logit_bias"] = scalars["logit_bias"]
    metrics.update(mean_success_rates(parts))
    losses = {"contrastive": contrast.loss, **parts.losses}
    return Report(losses, {**metrics, **parts.metrics})
