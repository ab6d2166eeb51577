"""The share of tokens that are not dropped, on a whole dataset."""

import collections
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from limoe_tf.mesh import rows
from limoe_tf.moe.capacity import as_in_training
from limoe_tf.moe.sparse import SparseFeedForward


def success_rates(model: keras.Model, batches: Iterable[dict[str, tf.Tensor]]) -> dict[str, Any]:
    """Measures the share of tokens that are not dropped, with the training capacity and no noise.

    Args:
      model: has sparse blocks; its Report holds `block_NN/success_rate_M` of each modality M.
      batches: yields batches of the training batch size, since tokens of a batch compete for slots.

    Returns:
      dict of the mean over blocks by modality, and of `block_NN` dicts by modality. Empty for a
      model without sparse blocks.

    Raises:
      ValueError: if there is no batch.
    """
    layers = [layer for layer in model._flatten_layers() if isinstance(layer, SparseFeedForward)]
    with as_in_training(layers):

        @tf.function(autograph=False)
        def route(batch):
            with model.on_replicas():
                metrics = model(batch, training=False)[1].metrics
            return {name: rate for name, rate in metrics.items() if "/success_rate_" in name}

        # All replicas return the same values.
        seen = [rows.on_each(model.distribute_strategy, route, batch)[0] for batch in batches]
    if not seen:
        raise ValueError("`batches` must hold at least one batch. Received: none")
    by_modality, by_block = collections.defaultdict(list), {}
    for name in seen[0]:
        block, modality = name.split("/")[0], name.rsplit("success_rate_", 1)[1]
        rate = float(np.mean([float(rates[name]) for rates in seen]))
        by_modality[modality].append(rate)
        by_block.setdefault(block, {})[modality] = rate
    means = {modality: float(np.mean(rates)) for modality, rates in by_modality.items()}
    return {**means, **by_block}
