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


def check_batch_size(model: keras.Model, batch_size: int) -> None:
    """Refuses a batch that a model cannot route as a whole.

    Args:
      model: `Limoe` or `TwoTower`.
      batch_size: pairs that are routed together.

    Raises:
      ValueError: if the replicas, or the groups of their sparse layers, do not divide it.
    """
    replicas = model.distribute_strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise ValueError(
            f"`batch_size` must be divisible by the {replicas} replicas. "
            f"Received: batch_size={batch_size}"
        )
    for group_size in {layer.group_size for layer in _sparse_layers(model)} - {None}:
        if batch_size // replicas % group_size:
            raise ValueError(
                f"`batch_size` must be divisible by group_size={group_size} on each of the "
                f"{replicas} replicas. Received: batch_size={batch_size}"
            )


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
    with as_in_training(_sparse_layers(model)):

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


def _sparse_layers(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, SparseFeedForward)]
