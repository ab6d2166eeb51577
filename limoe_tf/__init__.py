"""Sparse image-text models for TensorFlow, Keras and Cloud TPU."""

from limoe_tf.model.limoe import Limoe
from limoe_tf.model.two_tower import TwoTower
from limoe_tf.moe.sparse import SparseFeedForward

__all__ = ["Limoe", "SparseFeedForward", "TwoTower"]
__version__ = "0.1.0"
