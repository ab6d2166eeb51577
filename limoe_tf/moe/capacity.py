"""Token dropping at inference, as in training."""

import contextlib
from collections.abc import Iterable, Iterator

from limoe_tf.moe.sparse import SparseFeedForward


@contextlib.contextmanager
def as_in_training(layers: Iterable[SparseFeedForward]) -> Iterator[None]:
    """Makes sparse layers use their training capacity factor at inference, too.

    Args:
      layers: list of `sparse.SparseFeedForward`; restored afterwards.
    """
    before = [layer.inference_capacity_factor for layer in layers]
    try:
        for layer in layers:
            layer.inference_capacity_factor = layer.capacity_factor
        yield
    finally:
        for layer, factor in zip(layers, before):
            layer.inference_capacity_factor = factor
