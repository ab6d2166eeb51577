"""Routing at inference as in training."""

import contextlib


@contextlib.contextmanager
def as_in_training(layers):
    """Lets sparse layers drop tokens at inference as they do in training.

    Args:
      layers: list of `sparse.SparseFeedForward`. Afterwards they are as they were.
    """
    before = [layer.inference_capacity_factor for layer in layers]
    try:
        for layer in layers:
            layer.inference_capacity_factor = layer.capacity_factor
        yield
    finally:
        for layer, factor in zip(layers, before):
            layer.inference_capacity_factor = factor
