"""The routing decisions of every sparse layer of a model for every token of a batch.

Axis letters: B examples, N tokens of a stream, K choices per token.
"""

import contextlib
from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from limoe_tf.mesh import rows
from limoe_tf.model.per_stream import PerStream
from limoe_tf.moe.capacity import as_in_training
from limoe_tf.moe.sparse import SparseFeedForward


class Routes(NamedTuple):
    """The routing decisions of a sparse layer for a batch's tokens of one stream.

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
    """Returns a dict of a model's sparse layers by name, such as `block_01` or `block_01/text`."""
    found = {}
    for number, block in enumerate(getattr(model.encoder, "blocks", ())):
        name, inner = f"block_{number:02d}", block.feed_forward
        pools = {name: inner}
        if isinstance(inner, PerStream):
            pools = {f"{name}/{layer.name}": layer for layer in inner.layers}
        found.update((k, v) for k, v in pools.items() if isinstance(v, SparseFeedForward))
    return found


def entry_of(layer: str, what: str, stream: str, known: Container[str]) -> str | None:
    """Returns the name in Reports of what a sparse layer reports of a stream.

    A layer of a `PerStream` reports under its own name or that of the stream.

    Args:
      layer: its name, as of `sparse_layers`.
      what: such as "success_rate".
      stream: its name.
      known: names of the entries that there are.

    Returns:
      the name, or None if there is no such entry: the layer does not route the stream.
    """
    block = layer.partition("/")[0]
    names = (f"{layer}/{what}_{stream}", f"{block}/{stream}/{what}_{stream}")
    return next((name for name in names if name in known), None)


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
      to a dict of dicts of Routes, by layer and by stream.

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
        return _by_layer(rows.on_each(model.distribute_strategy, metrics_of, batch), layers)

    try:
        for layer in layers.values():
            layer.reports_tokens = True
        with as_in_training(list(layers.values())):
            yield routes
    finally:
        for layer in layers.values():
            layer.reports_tokens = False


def _by_layer(metrics_of_replicas, layers):
    """Joins the replicas' metrics and sorts them by layer and stream."""
    found = {}
    for layer, of_layer in layers.items():
        for stream in of_layer.modalities:
            routes = _routes(metrics_of_replicas, layer, stream)
            if routes is not None:
                found.setdefault(layer, {})[stream] = routes
    return found


def _routes(metrics_of_replicas, layer, stream):
    """Returns the Routes of a stream; None if the layer does not route it."""
    first = metrics_of_replicas[0]
    if (entropy := entry_of(layer, "marginal_entropy", stream, first)) is None:
        return None
    fields = {}
    for field in ("expert", "kept", "gate", "rank"):
        name = entry_of(layer, f"token_{field}", stream, first)
        parts = [np.asarray(metrics[name]) for metrics in metrics_of_replicas]
        fields[field] = np.concatenate(parts)
    # The entropy is that of all replicas.
    return Routes(**{**fields, "rank": fields["rank"][..., 0]}, entropy=np.asarray(first[entropy]))
