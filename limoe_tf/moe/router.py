"""The router: gates of every token over the experts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.mesh import noise
from limoe_tf.moe.regularizers import ZLoss
from limoe_tf.tokens import Layout, sizes


class Gates(NamedTuple):
    """A router's gates and logits; all <float32>[G, S, E].

    Attributes:
      probabilities: softmax of `noisy_logits`: these choose experts and weight their outputs.
      clean_probabilities: softmax of `logits`.
      logits: without noise.
      noisy_logits: with noise; the same tensor as `logits` where there is none.
    """

    probabilities: tf.Tensor
    clean_probabilities: tf.Tensor
    logits: tf.Tensor
    noisy_logits: tf.Tensor


@keras.saving.register_keras_serializable(package="limoe_tf")
class Router(keras.layers.Layer):
    """One or several linear maps from tokens to experts, in float32 under any dtype policy.

    Args:
      num_experts: E.
      noise: in training, the logits get noise of standard deviation `noise / E`; 0 for none.
      modalities: names of streams that have a router each; None for one shared router.
      seed: of the noise.
      activity_regularizer: one of `limoe_tf.regularizers`, which is given the gates without noise,
        padding too, or for `ZLoss` the logits without noise; Keras' others are given those gates.

    Reference: https://arxiv.org/abs/2206.02770, section 2.1, and section 4.2 for one router each.
    """

    def __init__(
        self,
        num_experts: int,
        *,
        noise: float = 1.0,
        modalities: Sequence[str] | None = None,
        seed: int = 0,
        name: str = "router",
        activity_regularizer: keras.regularizers.Regularizer | str | dict | None = None,
        **kwargs,
    ):
        kwargs.pop("dtype", None)
        super().__init__(name=name, dtype="float32", **kwargs)
        self.num_experts = checks.positive_int("num_experts", num_experts)
        self.noise = checks.number_in("noise", noise, 0)
        self.modalities = None if modalities is None else tuple(modalities)
        self.seed = checks.integer_in("seed", seed, 0)
        # Keras would apply one of its own name to each of the four tensors of Gates.
        self.gates_regularizer = keras.regularizers.get(activity_regularizer)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise, and the scale of the load loss.

        Where there is no noise (`noise=0`, and at inference), V-MoE's code leaves the load loss
        out. Here it stays, as the chance of being chosen under noise of deviation 1 / E: a smooth
        count of the tokens of each expert. A weight of 0 leaves it out.
        """
        return (self.noise or 1.0) / self.num_experts

    def build(self, tokens_shape):
        names = ["kernel"] if self.modalities is None else [f"kernel_{m}" for m in self.modalities]
        shape = (tokens_shape[-1], self.num_experts)
        self.kernels = [
            self.add_weight(name=name, shape=shape, initializer="lecun_normal") for name in names
        ]
        self.draws = noise.add_counter(self)
        self.built = True

    def call(
        self,
        tokens: tf.Tensor | Mapping[str, tf.Tensor],
        *,
        layout: Layout | None = None,
        training: bool | None = None,
    ) -> Gates:
        """Returns Gates.

        Args:
          tokens: <float>[G, S, D], or the same tokens as a dict of streams <float>[B, N, D].
          layout: `tokens.Layout` of the groups; a shared router of [G, S, D] needs none.
          training: whether noise is added.

        Raises:
          ValueError: if `layout` is needed and missing.
        """
        gates = self._gates(tokens, layout, training)
        if (regularizer := self.gates_regularizer) is not None:
            of_logits = isinstance(regularizer, ZLoss)
            loss = regularizer(gates.logits if of_logits else gates.clean_probabilities)
            self.add_loss(loss / tf.cast(tf.shape(gates.logits)[0], loss.dtype))
        return gates

    def _gates(self, tokens, layout, training):
        if self.modalities is None and not isinstance(tokens, dict):
            logits = tf.matmul(tokens, self.kernels[0])
        else:
            logits = self._logits_of_streams(tokens, layout)
        clean = tf.nn.softmax(logits)
        if not training or not self.noise:
            return Gates(clean, clean, logits, logits)
        drawn = noise.normal(sizes(logits), self.next_seed())
        noisy_logits = logits + self.noise_std * drawn
        return Gates(tf.nn.softmax(noisy_logits), clean, logits, noisy_logits)

    def _logits_of_streams(self, tokens, layout):
        if layout is None:
            raise ValueError(
                "`layout` must say where each stream's tokens are. "
                f"Received: layout=None for modalities={self.modalities}"
            )
        if self.modalities is None:
            kernels = dict.fromkeys(layout.lengths, self.kernels[0])
        else:
            kernels = dict(zip(self.modalities, self.kernels))
        parts = tokens if isinstance(tokens, dict) else layout.segments(tokens)
        logits = {name: tf.matmul(part, kernels[name]) for name, part in parts.items()}
        return layout.join(logits)

    def next_seed(self) -> tf.Tensor:
        """Returns <int32>[2], different at every call."""
        return noise.next_seed(self)

    compute_output_spec = keras.Operation.compute_output_spec  # Gates, in float32.

    def compute_output_shape(self, tokens_shape):
        return Gates(*[(*tokens_shape[:-1], self.num_experts)] * 4)

    def get_config(self):
        regularizer = self.gates_regularizer
        kept = (
            {}
            if regularizer is None
            else {"activity_regularizer": keras.regularizers.serialize(regularizer)}
        )
        return {
            **super().get_config(),
            **kept,
            "num_experts": self.num_experts,
            "noise": self.noise,
            "modalities": self.modalities,
            "seed": self.seed,
        }
