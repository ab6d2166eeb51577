"""The losses of gates as Keras' regularizers of activity.

Keras divides what a regularizer of activity returns by the first axis of the output. So each of
these returns its value times that axis: the loss of a layer is the value that stands here. Values
are of a replica's batch, with every token, padding too; what `SparseFeedForward` adds by its
`loss_weights` leaves padding out and spans all replicas. The load loss is there alone: it needs
logits with noise beside those without, and a regularizer sees one tensor.

Axis letters: G groups or examples, S tokens, E experts, K choices per token.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.moe import balance


class _OfGates(keras.regularizers.Regularizer):
    """`weight` times a value of gates; a subclass has `value` and its own config."""

    def __init__(self, weight: float):
        self.weight = checks.number_in("weight", weight, 0)

    def __call__(self, gates: tf.Tensor) -> tf.Tensor:
        """Returns <float32>[]: weight * value * G, of <float>[G, ..., E]."""
        gates = tf.cast(gates, tf.float32)
        if gates.shape.rank is None or gates.shape.rank < 2:
            raise ValueError(
                "Gates must have the shape (batch, ..., experts). "
                f"Received: shape={tuple(gates.shape)}"
            )
        return self.weight * self.value(gates) * tf.cast(tf.shape(gates)[0], tf.float32)

    def value(self, gates: tf.Tensor) -> tf.Tensor:
        """Returns <float32>[], the value without weight, of <float32>[G, ..., E]."""
        raise NotImplementedError

    def get_config(self):
        return {"weight": self.weight}


def _mean_of(gates):
    return tf.reduce_mean(tf.reshape(gates, [-1, gates.shape[-1]]), axis=0)


@keras.saving.register_keras_serializable(package="limoe_tf")
class LocalEntropy(_OfGates):
    """The mean entropy of the tokens' gates: low if each token is sure of its experts.

    Args:
      weight: of the loss.
      num_choices: K; the K largest gates count as one outcome, see `balance.merged_entropy`.

    Reference: https://arxiv.org/abs/2206.02770, equation 2.
    """

    def __init__(self, weight: float = 0.04, num_choices: int = 1):
        super().__init__(weight)
        self.num_choices = checks.positive_int("num_choices", num_choices)

    def value(self, gates):
        return tf.reduce_mean(balance.merged_entropy(gates, num_choices=self.num_choices))

    def get_config(self):
        return {**super().get_config(), "num_choices": self.num_choices}


@keras.saving.register_keras_serializable(package="limoe_tf")
class GlobalEntropy(_OfGates):
    """max(0, log `min_experts` - entropy of the mean gates): 0 once so many experts are in use.

    Args:
      weight: of the loss.
      min_experts: soft minimum of the experts in use, at least 1 and at most E.

    Reference: https://arxiv.org/abs/2206.02770, section 2.2.2.
    """

    def __init__(self, weight: float = 0.04, *, min_experts: float):
        super().__init__(weight)
        self.min_experts = checks.number_in("min_experts", min_experts, 1)

    def value(self, gates):
        checks.number_in("min_experts", self.min_experts, 1, gates.shape[-1])
        return balance.thresholded_global_entropy(_mean_of(gates), min_experts=self.min_experts)

    def get_config(self):
        return {**super().get_config(), "min_experts": self.min_experts}


@keras.saving.register_keras_serializable(package="limoe_tf")
class Importance(_OfGates):
    """(std / mean)^2 over experts of the sum of their gates: 0 if all get the same.

    Args:
      weight: of the loss.
      by_group: whether each entry of the first axis is a group of its own, whose values are
        averaged, as a `Router`'s groups are; if not, all tokens are one group.

    Reference: https://arxiv.org/abs/2106.05974, appendix A.2.
    """

    def __init__(self, weight: float = 0.005, *, by_group: bool = False):
        super().__init__(weight)
        self.by_group = by_group

    def value(self, gates):
        groups = tf.shape(gates)[0] if self.by_group else 1
        gates = tf.reshape(gates, [groups, -1, gates.shape[-1]])
        mass = balance.importance(gates, tf.ones(tf.shape(gates)[:2], tf.bool))
        return balance.squared_coefficient_of_variation(mass)

    def get_config(self):
        return {**super().get_config(), "by_group": self.by_group}


@keras.saving.register_keras_serializable(package="limoe_tf")
class ZLoss(_OfGates):
    """The mean of (log sum_e exp logit_e)^2: of logits, not of gates.

    Args:
      weight: of the loss.

    Reference: https://arxiv.org/abs/2202.08906, equation 5.
    """

    def __init__(self, weight: float = 0.001):
        super().__init__(weight)

    def value(self, gates):
        return tf.reduce_mean(balance.squared_log_partition(gates))


@keras.saving.register_keras_serializable(package="limoe_tf")
class MutualInformation(_OfGates):
    """Minus the mutual information of experts and modality, with equally likely modalities.

    Args:
      weight: of the loss.
      lengths: tokens of each modality along the axis before the last, one modality after another.

    Reference: https://arxiv.org/abs/2206.02770, section 2.2.3; the equal weights are a choice.
    """

    def __init__(self, weight: float = 0.04, *, lengths: Sequence[int]):
        super().__init__(weight)
        self.lengths = tuple(checks.positive_int("lengths", length) for length in lengths)
        if len(self.lengths) < 2:
            raise ValueError(
                f"`lengths` must be of two modalities or more. Received: lengths={lengths}"
            )

    def value(self, gates):
        if gates.shape[-2] != sum(self.lengths):
            raise ValueError(
                "`lengths` must sum to the tokens of the axis before the last. "
                f"Received: lengths={self.lengths} for shape={tuple(gates.shape)}"
            )
        parts = tf.split(gates, self.lengths, axis=-2)
        return balance.negative_mutual_information([_mean_of(part) for part in parts])

    def get_config(self):
        return {**super().get_config(), "lengths": self.lengths}
