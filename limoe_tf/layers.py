"""The Keras layers of this package, for models of your own: docs/layers.md."""

from limoe_tf.model.attention import SelfAttention
from limoe_tf.model.block import Block
from limoe_tf.model.embed import PatchEmbed, WordEmbed
from limoe_tf.model.feedforward import DenseFeedForward
from limoe_tf.model.heads import Head
from limoe_tf.moe.experts import Experts
from limoe_tf.moe.router import Gates, Router
from limoe_tf.moe.sparse import SparseFeedForward

__all__ = [
    "Block",
    "DenseFeedForward",
    "Experts",
    "Gates",
    "Head",
    "PatchEmbed",
    "Router",
    "SelfAttention",
    "SparseFeedForward",
    "WordEmbed",
]
