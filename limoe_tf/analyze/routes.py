"""The routing decisions of every sparse layer of a model for every token of a batch.

Axis letters: B examples, N tokens of a stream, K choices per token.
"""

import collections
import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from limoe_tf.mesh import rows
from limoe_tf.model.per_stream import PerStream
from limoe_tf.moe.capacity import as_in_training
from limoe_tf.moe.sparse import SparseFeedForward


class Routes(NamedTuple):
    """The routing decisions of a sparse layer for a batch's tokens of one modality.

    Attributes:
      expert: <int32>[B, N, K] chosen experts, highest gate first; -1 on padding that is not routed.
      kept: <bool>[B, N, K] False where the token is dropped because the expert is full.
      gate: <float32>[B, N, K] gate probability of the choice.
      rank: <float32>[B, N] rank in priority order: 0 is first in the group, 1 is last.
      entropy: <float32>[] entropy of the mean gate probabilities of the batch.
    """

    expert: np.ndarray
    kept: np.ndarray
    gate: np.ndarray
    rank: np.ndarray
    entropy: np.ndarray


def sparse_layers(model: keras.Model) -> dict[str, SparseFeedForward]:
    """Returns a dict of a model's sparse layers by their name in a Report, such as `block_01`."""
    found = {}
    for number, block in enumerate(getattr(model.encoder, "blocks", ())):
        name, inner = f"block_{number:02d}", block.feed_forward
        pools = {name: inner}
        if isinstance(inner, PerStream):
            pools = {f"{name}/{stream}": layer for stream, layer in inner.of_stream.items()}
        found.update((k, v) for k, v in pools.items() if isinstance(v, SparseFeedForward))
    return found


@contextlib.contextmanager
def routes_of(
    model: keras.Model,
) -> Iterator[Callable[[dict[str, tf.Tensor]], dict[str, dict[str, Routes]]]]:
    """Context manager of a function that returns the model's routing of each token of a batch.

    The experts have the training capacity; there is no noise. On exit the model is restored.

    Args:
      model: has sparse blocks.

    Yields:
      function of a batch (an input dict of the model, whose size replicas and groups divide)
      to a dict of dicts of Routes, by layer and by modality.

    Raises:
      ValueError: if the model has no sparse block.
    """
    layers = sparse_layers(model)
    if not layers:
        raise ValueError("`model` must have sparse blocks. Received: a dense one")

    @tf.function(autograph=False)
    def metrics_of(batch):
        with model.on_replicas():
            metrics = model(batch, training=False)[1].metrics
        wanted = ("token_", "marginal_entropy_")
        return {k: v for k, v in metrics.items() if k.rpartition("/")[2].startswith(wanted)}

    def routes(batch):
        return _by_layer(rows.on_each(model.distribute_strategy, metrics_of, batch))

    try:
        for layer in layers.values():
            layer.reports_tokens = True
        with as_in_training(list(layers.values())):
            yield routes
    finally:
        for layer in layers.values():
            layer.reports_tokens = False


def _by_layer(metrics_of_replicas):
    """Joins the replicas' metrics and sorts them by layer and modality."""
    parts = collections.defaultdict(lambda: collections.defaultdict(dict))
    for name, value in metrics_of_replicas[0].items():
        layer, _, entry = name.rpartition("/")
        what, _, modality = entry.rpartition("_")
        if what.startswith("token_"):
            value = np.concatenate([np.asarray(replica[name]) for replica in metrics_of_replicas])
        field = what.removeprefix("token_").removeprefix("marginal_")
        parts[layer][modality][field] = np.asarray(value)
    return {
        layer: {
            modality: Routes(**{**fields, "rank": fields["rank"][..., 0]})
            for modality, fields in by_modality.items()
        }
        for layer, by_modality in parts.items()
    }
