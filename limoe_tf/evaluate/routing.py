"""How many tokens find room at their experts, on a whole dataset."""

import collections

import numpy as np
import tensorflow as tf

from limoe_tf.mesh import rows
from limoe_tf.moe.capacity import as_in_training
from limoe_tf.moe.sparse import SparseFeedForward


def success_rates(model, batches):
    """Measures the share of tokens that are not dropped, with the training capacity and no noise.

    Args:
      model: has sparse blocks; its Report holds `block_NN/success_rate_M` of each modality M.
      batches: yields batches of one size, as in training: the size decides who competes.

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

        # Every replica says the same.
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
