"""The encoder: blocks one after another, and a final norm."""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from limoe_tf import report, tokens
from limoe_tf.model.recompute import recomputed
from limoe_tf.report import Report


@keras.saving.register_keras_serializable(package="limoe_tf")
class Encoder(tokens.StreamsLayer):
    """A stack of blocks; names in a Report have the block's index, from 0.

    Args:
      blocks: layers with `call(streams, valid, training) -> (streams, Report)`.
      recompute: whether blocks are recomputed in the backward pass (gradient checkpointing) instead
        of storing their activations; takes a third more FLOPs.
    """

    def __init__(self, blocks: Sequence[keras.layers.Layer], *, recompute: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.blocks = list(blocks)
        self.recompute = recompute
        self.final_norm = keras.layers.LayerNormalization(
            epsilon=1e-6, name="final_norm", dtype=self.dtype_policy
        )

    def build(self, streams_shape, valid_shape=None):
        for block in self.blocks:
            if not block.built:  # A deserialized one is.
                block.build(streams_shape)
        self.final_norm.build((None, None, tokens.width_of(streams_shape)))
        self.built = True

    def call(
        self,
        streams: Mapping[str, tf.Tensor],
        valid: Mapping[str, tf.Tensor | None] | None = None,
        training: bool | None = None,
    ) -> tuple[dict[str, tf.Tensor], Report]:
        """Returns dict of <float>[B, N, D] and the blocks' Reports under `block_NN/`.

        Args:
          streams: dict of <float>[B, N, D].
          valid: dict of <bool>[B, N], or None where every token is valid, of a stream or of all.
          training: passed to the blocks.
        """
        streams, valid = tokens.as_streams(streams, valid)
        reports = []
        for number, block in enumerate(self.blocks):
            if self.recompute and training:
                streams, part = recomputed(block, streams, valid=valid, training=training)
            else:
                streams, part = block(streams, valid, training=training)
            reports.append(report.prefixed(f"block_{number:02d}", part))
        streams = {name: self.final_norm(stream) for name, stream in streams.items()}
        return streams, report.merged(reports)

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers in order, as `summary(expand_nested=True)` lists them."""
        return [*self.blocks, self.final_norm]

    def get_config(self):
        return {
            **super().get_config(),
            "blocks": [keras.saving.serialize_keras_object(block) for block in self.blocks],
            "recompute": self.recompute,
        }

    @classmethod
    def from_config(cls, config):
        blocks = [keras.saving.deserialize_keras_object(block) for block in config.pop("blocks")]
        return cls(blocks, **config)
