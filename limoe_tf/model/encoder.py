"""The encoder: blocks one after another, and a final norm."""

import keras

from limoe_tf import report
from limoe_tf.model.recompute import recomputed


@keras.saving.register_keras_serializable(package="limoe_tf")
class Encoder(keras.layers.Layer):
    """A stack of blocks; the number in a Report's names is the block's, from 0.

    Args:
      blocks: layers with `call(streams, valid, training) -> (streams, Report)`.
      recompute: whether training computes each block again in the backward pass, which takes a
        third more computing, instead of keeping all that is inside.
    """

    def __init__(self, blocks, *, recompute=False, **kwargs):
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
        self.final_norm.build((None, None, next(iter(streams_shape.values()))[-1]))
        self.built = True

    def call(self, streams, valid, training=None):
        """Returns dict of <float>[B, N, D] and the blocks' Reports under `block_NN/`.

        Args:
          streams: dict of <float>[B, N, D].
          valid: dict of <bool>[B, N], or None where every token is valid.
          training: handed to the blocks.
        """
        reports = []
        for number, block in enumerate(self.blocks):
            if self.recompute and training:
                streams, part = recomputed(block, streams, valid=valid, training=training)
            else:
                streams, part = block(streams, valid, training=training)
            reports.append(report.prefixed(f"block_{number:02d}", part))
        streams = {name: self.final_norm(stream) for name, stream in streams.items()}
        return streams, report.merged(reports)

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
