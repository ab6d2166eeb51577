"""One block: attention and a feed-forward, each with a pre-norm and a residual connection."""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from limoe_tf import checks, tokens
from limoe_tf.mesh import noise
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
      joint: sets of the names of streams that attend to each other; all others attend to
        themselves alone.
      norm_feed_forward: whether a norm stands in front of the feed-forward; if not, that has its
        own, as `PerStream` can.
      layer_scale: initial value of learned factors <float>[D] on what attention and feed-forward
        add (LayerScale); None for none.
      drop_path: in training, the share of examples to which attention, and the feed-forward, add
        nothing; what they add to the others is divided by the rest (stochastic depth).
      seed: of that draw.
      kernel_stddev, output_stddev: of the initial values of attention, see `SelfAttention`.
      attention_chunks: `chunks` of `SelfAttention`.

    Reference: https://arxiv.org/abs/2010.11929, equations 2 and 3; LayerScale
      https://arxiv.org/abs/2103.17239; stochastic depth https://arxiv.org/abs/1603.09382.
    """

    def __init__(
        self,
        num_heads: int,
        feed_forward: keras.layers.Layer,
        *,
        joint: Sequence[Sequence[str]] = (),
        norm_feed_forward: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        seed: int = 0,
        kernel_stddev: float | None = None,
        output_stddev: float | None = None,
        attention_chunks: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.joint = tuple(map(tuple, joint))
        self.layer_scale = layer_scale
        self.drop_path = checks.number_in("drop_path", drop_path, 0, 0.99)
        self.seed = checks.integer_in("seed", seed, 0)
        self.attention = SelfAttention(
            num_heads,
            kernel_stddev=kernel_stddev,
            output_stddev=output_stddev,
            chunks=attention_chunks,
            name="attention",
            dtype=self.dtype_policy,
        )
        self.feed_forward = feed_forward
        self.attention_norm = self._norm("attention_norm")
        self.feed_forward_norm = self._norm("feed_forward_norm") if norm_feed_forward else None

    def _norm(self, name):
        return keras.layers.LayerNormalization(epsilon=1e-6, name=name, dtype=self.dtype_policy)

    def build(self, streams_shape, valid_shape=None):
        shape = (None, None, tokens.width_of(streams_shape))
        for layer in (self.attention_norm, self.attention, self.feed_forward_norm):
            if layer is not None:
                layer.build(shape)
        if self.layer_scale is not None:
            start = keras.initializers.Constant(self.layer_scale)
            self.scales = [
                self.add_weight(name=f"{name}_scale", shape=shape[-1:], initializer=start)
                for name in ("attention", "feed_forward")
            ]
        if self.drop_path:
            self.draws = noise.add_counter(self)
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
        normed = {name: self.attention_norm(stream) for name, stream in streams.items()}
        updates = tokens.over_sets(self.attention, normed, valid, self.joint)
        streams = self._added(0, streams, updates, training)
        normed = streams
        if self.feed_forward_norm is not None:
            normed = {name: self.feed_forward_norm(stream) for name, stream in streams.items()}
        if plain:
            inputs = [part[tokens.PLAIN] for part in (normed, valid)]
            updates = {tokens.PLAIN: self.feed_forward(*inputs, training=training)}
            return self._added(1, streams, updates, training)[tokens.PLAIN]
        updates, report = self.feed_forward(normed, valid, training=training)
        return self._added(1, streams, updates, training), report

    def _added(self, place, streams, updates, training):
        """Returns the streams with what attention (place 0) or the feed-forward (1) adds."""
        updates = {name: tf.cast(updates[name], streams[name].dtype) for name in streams}
        if self.layer_scale is not None:
            scale = tf.convert_to_tensor(self.scales[place])
            updates = {name: tf.cast(scale, one.dtype) * one for name, one in updates.items()}
        if self.drop_path and training:
            updates = self._dropped(updates)
        return {name: stream + updates[name] for name, stream in streams.items()}

    def _dropped(self, updates):
        """Leaves out the updates of some examples, the same for all streams that are joint."""
        seed = noise.next_seed(self)

        def dropped(update, _):
            nonlocal seed
            drawn = noise.uniform([tokens.sizes(update)[0], 1, 1], seed)
            seed += [0, 2**16]  # Far from the draws of other steps.
            kept = tf.where(drawn < self.drop_path, 0.0, 1 / (1 - self.drop_path))
            return tf.cast(kept, update.dtype) * update

        return tokens.over_sets(dropped, updates, dict.fromkeys(updates), self.joint)

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers in order, as `summary(expand_nested=True)` lists them."""
        found = self.attention_norm, self.attention, self.feed_forward_norm, self.feed_forward
        return [layer for layer in found if layer is not None]

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.attention.num_heads,
            "feed_forward": keras.saving.serialize_keras_object(self.feed_forward),
            "joint": self.joint,
            "norm_feed_forward": self.feed_forward_norm is not None,
            "layer_scale": self.layer_scale,
            "drop_path": self.drop_path,
            "seed": self.seed,
            "kernel_stddev": self.attention.kernel_stddev,
            "output_stddev": self.attention.output_stddev,
            "attention_chunks": self.attention.chunks,
        }

    @classmethod
    def from_config(cls, config):
        feed_forward = keras.saving.deserialize_keras_object(config.pop("feed_forward"))
        return cls(feed_forward=feed_forward, **config)
