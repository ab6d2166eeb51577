"""One block: attention and a feed-forward, each with a pre-norm and a residual connection."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from limoe_tf import tokens
from limoe_tf.model.attention import SelfAttention
from limoe_tf.report import Report


@keras.saving.register_keras_serializable(package="limoe_tf")
class Block(tokens.StreamsLayer):
    """A pre-norm Transformer block, of streams or of a plain tensor.

    Args:
      num_heads: A, attention heads.
      feed_forward: layer with `call(streams, valid, training) -> (streams, Report)`, dense or
        sparse; where the block is called with a plain tensor, `call(stream, valid, training) ->
        stream`. Its dtype policy may be another one.

    Reference: https://arxiv.org/abs/2010.11929, equations 2 and 3.
    """

    def __init__(self, num_heads: int, feed_forward: keras.layers.Layer, **kwargs):
        super().__init__(**kwargs)
        self.attention = SelfAttention(num_heads, name="attention", dtype=self.dtype_policy)
        self.feed_forward = feed_forward
        self.attention_norm = self._norm("attention_norm")
        self.feed_forward_norm = self._norm("feed_forward_norm")

    def _norm(self, name):
        return keras.layers.LayerNormalization(epsilon=1e-6, name=name, dtype=self.dtype_policy)

    def build(self, streams_shape, valid_shape=None):
        shape = (None, None, tokens.width_of(streams_shape))
        for layer in (self.attention_norm, self.attention, self.feed_forward_norm):
            layer.build(shape)
        if not self.feed_forward.built:  # A deserialized one is.
            self.feed_forward.build(streams_shape)
        self.built = True

    def call(
        self,
        streams: tf.Tensor | Mapping[str, tf.Tensor],
        valid: tf.Tensor | Mapping[str, tf.Tensor | None] | None = None,
        training: bool | None = None,
        mask: tf.Tensor | Mapping[str, tf.Tensor | None] | None = None,
    ) -> tf.Tensor | tuple[dict[str, tf.Tensor], Report]:
        """Returns dict of <float>[B, N, D] and the feed-forward's Report; of a tensor, a tensor.

        Args:
          streams: dict of <float>[B, N, D], or a plain <float>[B, N, D].
          valid: <bool>[B, N] in the same form; in a dict, None where every token is valid. If left
            out, `mask` says it.
          training: passed to the feed-forward.
          mask: Keras' mask of `streams`; Keras fills it in.
        """
        plain = tokens.is_plain(streams)
        streams, valid = tokens.as_streams(streams, valid, mask=mask)
        streams = {
            name: stream + self.attention(self.attention_norm(stream), valid[name])
            for name, stream in streams.items()
        }
        normed = {name: self.feed_forward_norm(stream) for name, stream in streams.items()}
        if plain:
            stream, *inputs = (part[tokens.PLAIN] for part in (streams, normed, valid))
            return _sum(stream, self.feed_forward(*inputs, training=training))
        updates, report = self.feed_forward(normed, valid, training=training)
        return {name: _sum(stream, updates[name]) for name, stream in streams.items()}, report

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers in order, as `summary(expand_nested=True)` lists them."""
        return [self.attention_norm, self.attention, self.feed_forward_norm, self.feed_forward]

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.attention.num_heads,
            "feed_forward": keras.saving.serialize_keras_object(self.feed_forward),
        }

    @classmethod
    def from_config(cls, config):
        feed_forward = keras.saving.deserialize_keras_object(config.pop("feed_forward"))
        return cls(feed_forward=feed_forward, **config)


def _sum(stream, update):
    return stream + tf.cast(update, stream.dtype)
