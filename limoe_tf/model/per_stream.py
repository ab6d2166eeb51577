"""A separate layer for each stream, with the interface of one layer for all streams."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from limoe_tf import report, tokens
from limoe_tf.report import Report


@keras.saving.register_keras_serializable(package="limoe_tf")
class PerStream(tokens.StreamsLayer):
    """Sends each stream through its own layer: separate expert pools, or two towers.

    Args:
      layers: dict by stream of layers with `call(streams, valid, training) -> (streams, Report)`:
        the attribute `of_stream`. Each is an attribute under its own name, too.

    Reference: https://arxiv.org/abs/2206.02770, section 4.2 (separate experts for each modality).
    """

    def __init__(self, layers: Mapping[str, keras.layers.Layer], **kwargs):
        super().__init__(**kwargs)
        # In this order: Keras saves what it finds in `layers` under that name.
        self.layers = list(layers.values())
        self.of_stream = dict(layers)

    def __getattr__(self, name):
        """Returns the layer of this name, such as `image_encoder` of two towers."""
        # Not stored as attributes: saved files would then have other paths.
        for layer in self.__dict__.get("layers", ()):
            if layer.name == name:
                return layer
        raise AttributeError(f"{type(self).__name__!r} has no attribute or layer {name!r}")

    def build(self, streams_shape, valid_shape=None):
        first = next(iter(streams_shape.values()))
        for name, layer in self.of_stream.items():
            if not layer.built:  # A deserialized one is.
                layer.build({name: streams_shape.get(name, first)})
        self.built = True

    def call(
        self,
        streams: Mapping[str, tf.Tensor],
        valid: Mapping[str, tf.Tensor | None] | None = None,
        training: bool | None = None,
    ) -> tuple[dict[str, tf.Tensor], Report]:
        """Returns dict of <float>[B, N, D] and the layers' Reports under the streams' names.

        Args:
          streams: dict of <float>[B, N, D].
          valid: dict of <bool>[B, N], or None where every token is valid, of a stream or of all.
          training: passed to the layers.

        Raises:
          ValueError: if a stream has no layer.
        """
        streams, valid = tokens.as_streams(streams, valid)
        outputs, reports = {}, []
        for name, stream in streams.items():
            if name not in self.of_stream:
                raise ValueError(
                    f"Streams must be among {sorted(self.of_stream)}. Received: stream={name!r}"
                )
            layer = self.of_stream[name]
            result, part = layer({name: stream}, {name: valid[name]}, training=training)
            outputs.update(result)
            reports.append(report.prefixed(name, part))
        return outputs, report.merged(reports)

    def get_config(self):
        layers = {
            name: keras.saving.serialize_keras_object(layer)
            for name, layer in self.of_stream.items()
        }
        return {**super().get_config(), "layers": layers}

    @classmethod
    def from_config(cls, config):
        layers = {
            name: keras.saving.deserialize_keras_object(layer)
            for name, layer in config.pop("layers").items()
        }
        return cls(layers, **config)
