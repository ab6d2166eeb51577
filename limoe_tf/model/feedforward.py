"""The dense feed-forward of a block.

Axis letters: B examples, N tokens of a stream, D width, F hidden width.
"""

from collections.abc import Mapping

import keras
import tensorflow as tf

from limoe_tf import checks, initial, report, tokens
from limoe_tf.report import Report
from limoe_tf.xla import gelu, training_gelu


@keras.saving.register_keras_serializable(package="limoe_tf")
class DenseFeedForward(tokens.StreamsLayer):
    """One MLP for the tokens of all streams.

    Args:
      hidden_width: F.
      kernel_stddev, output_stddev: of the initial values of the kernels, and of the last one, see
        `initial.kernel`.
    """

    def __init__(
        self,
        hidden_width: int,
        *,
        kernel_stddev: float | None = None,
        output_stddev: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.kernel_stddev, self.output_stddev = kernel_stddev, output_stddev
        self.hidden_width = checks.positive_int("hidden_width", hidden_width)

    def build(self, streams_shape, valid_shape=None):
        width = tokens.width_of(streams_shape)
        for name, size_in, size_out, stddev in (
            ("mlp_in", width, self.hidden_width, self.kernel_stddev),
            ("mlp_out", self.hidden_width, width, self.output_stddev),
        ):
            dense = keras.layers.Dense(
                size_out,
                kernel_initializer=initial.kernel(stddev),
                bias_initializer=keras.initializers.RandomNormal(stddev=1e-6),
                name=name,
                dtype=self.dtype_policy,
            )
            dense.build((None, None, size_in))
            setattr(self, name, dense)
        self.built = True

    def call(
        self,
        streams: tf.Tensor | Mapping[str, tf.Tensor],
        valid: tf.Tensor | Mapping[str, tf.Tensor | None] | None = None,
        training: bool | None = None,
        mask: tf.Tensor | Mapping[str, tf.Tensor | None] | None = None,
    ) -> tf.Tensor | tuple[dict[str, tf.Tensor], Report]:
        """Returns dict of <float>[B, N, D] and an empty Report; of a plain tensor, a tensor.

        Args:
          streams: dict of <float>[B, N, D], or a plain <float>[B, N, D].
          valid: not used: padding is computed like any token.
          training: whether gradients are computed.
          mask: not used.
        """
        plain = tokens.is_plain(streams)
        streams, _ = tokens.as_streams(streams, valid, mask=mask)
        activation = training_gelu if training else gelu
        outputs = {
            name: self.mlp_out(activation(self.mlp_in(stream))) for name, stream in streams.items()
        }
        return outputs[tokens.PLAIN] if plain else (outputs, report.empty())

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_width": self.hidden_width,
            "kernel_stddev": self.kernel_stddev,
            "output_stddev": self.output_stddev,
        }
