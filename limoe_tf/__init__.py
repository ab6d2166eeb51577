"""Sparse image-text models for TensorFlow, Keras and Cloud TPU."""

import importlib

__version__ = "0.1.0"
__all__ = ["Limoe", "SparseFeedForward", "TwoTower"]

_MODULES = {
    "Limoe": "limoe_tf.model.limoe",
    "SparseFeedForward": "limoe_tf.moe.sparse",
    "TwoTower": "limoe_tf.model.two_tower",
}


def __getattr__(name):
    """Imports a public name when it is asked for: `describe` and `doctor` need no TensorFlow."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
