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
        the attribute `of_stream`. Each is an attribute under its own name, too. Several streams may
        have the same layer.
      together: whether streams of the same layer are one call of it, so that their tokens are
        routed together; if not, each is a call of its own.
      norms: whether a norm of its own stands in front of each layer.

    Reference: https://arxiv.org/abs/2206.02770, section 4.2 (separate experts for each modality).
    """

    def __init__(
        self,
        layers: Mapping[str, keras.layers.Layer],
        *,
        together: bool = False,
        norms: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        # In this order: Keras saves what it finds in `layers` under that name.
        self.layers = list(dict.fromkeys(layers.values()))
        self.of_stream = dict(layers)
        self.together = together
        self.norms = [
            keras.layers.LayerNormalization(
                epsilon=1e-6, name=f"{layer.name}_norm", dtype=self.dtype_policy
            )
            for layer in self.layers
            if norms
        ]

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
        for norm in self.norms:
            norm.build((None, None, tokens.width_of(streams_shape)))
        self.built = True

    def call(
        self,
        streams: Mapping[str, tf.Tensor],
        valid: Mapping[str, tf.Tensor | None] | None = None,
        training: bool | None = None,
    ) -> tuple[dict[str, tf.Tensor], Report]:
        """Returns dict of <float>[B, N, D] and the layers' Reports.

        A Report stands under the name of its stream, that of a call for several streams under the
        name of the layer.

        Args:
          streams: dict of <float>[B, N, D].
          valid: dict of <bool>[B, N], or None where every token is valid, of a stream or of all.
          training: passed to the layers.

        Raises:
          ValueError: if a stream has no layer.
        """
        streams, valid = tokens.as_streams(streams, valid)
        outputs, reports = {}, []
        for names in self._calls(streams):
            layer = self.of_stream[names[0]]
            inputs = {name: self._normed(layer, streams[name]) for name in names}
            flags = {name: valid[name] for name in names}
            result, part = layer(inputs, flags, training=training)
            outputs.update(result)
            reports.append(report.prefixed(names[0] if len(names) == 1 else layer.name, part))
        return {name: outputs[name] for name in streams}, report.merged(reports)

    def _calls(self, streams):
        """Returns a list of the names of streams that are one call of their layer."""
        for name in streams:
            if name not in self.of_stream:
                raise ValueError(
                    f"Streams must be among {sorted(self.of_stream)}. Received: stream={name!r}"
                )
        if not self.together:
            return [[name] for name in streams]
        of_layers = [[n for n in streams if self.of_stream[n] is layer] for layer in self.layers]
        return [names for names in of_layers if names]

    def _normed(self, layer, stream):
        return self.norms[self.layers.index(layer)](stream) if self.norms else stream

    def get_config(self):
        layers, first = {}, {}
        for name, layer in self.of_stream.items():
            # Of a layer that an earlier stream has, too, the name of that.
            known = first.setdefault(layer, name)
            new = known == name
            layers[name] = keras.saving.serialize_keras_object(layer) if new else known
        return {
            **super().get_config(),
            "layers": layers,
            "together": self.together,
            "norms": bool(self.norms),
        }

    @classmethod
    def from_config(cls, config):
        layers = {}
        for name, layer in config.pop("layers").items():
            shared = isinstance(layer, str)
            layers[name] = layers[layer] if shared else keras.saving.deserialize_keras_object(layer)
        return cls(layers, **config)
