"""Sparse image-text models for TensorFlow, Keras and Cloud TPU."""

from limoe_tf import layers, metrics, regularizers
from limoe_tf.model.limoe import Limoe
from limoe_tf.model.two_tower import TwoTower
from limoe_tf.model.vlmoe import VlMoe
from limoe_tf.moe.sparse import SparseFeedForward

# Imported so that `import limoe_tf` is all that loading a saved model needs.
from limoe_tf.train import optimizer, schedule  # noqa: F401

__all__ = ["Limoe", "SparseFeedForward", "TwoTower", "VlMoe", "layers", "metrics", "regularizers"]
__version__ = "0.2.0"
