"""What a sparse layer reports, as Keras' metrics: means and sums over the batches of an epoch."""

import keras
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.moe.balance import entropy
from limoe_tf.report import Report


def _of_kind(report, kind, modality):
    """Returns the metrics `KIND_MODALITY` of a sparse layer's Report, of one modality or all."""
    found = [v for name, v in report.metrics.items() if name.startswith(f"{kind}_")]
    return [report.metrics[f"{kind}_{modality}"]] if modality is not None else found


@keras.saving.register_keras_serializable(package="limoe_tf")
class SuccessRate(keras.metrics.Mean):
    """The share of choices that were kept, averaged over batches.

    Args:
      modality: name of a stream; None for the mean of all streams of a batch.
    """

    def __init__(self, modality: str | None = None, name: str | None = None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.modality = modality

    def update_state(self, report: Report) -> None:
        """Takes the Report of a sparse layer."""
        super().update_state(_of_kind(report, "success_rate", self.modality))

    def get_config(self):
        return {**super().get_config(), "modality": self.modality}


@keras.saving.register_keras_serializable(package="limoe_tf")
class ExpertsInUse(keras.metrics.Metric):
    """exp of the entropy of the experts' shares of the kept choices: 1 for one expert, E for all.

    Args:
      num_experts: E.
      modality: name of a stream; None for the sum of all.
    """

    def __init__(
        self, num_experts: int, modality: str | None = None, name: str | None = None, dtype=None
    ):
        super().__init__(name=name, dtype=dtype)
        self.num_experts = checks.positive_int("num_experts", num_experts)
        self.modality = modality
        self.counts = self.add_variable((num_experts,), "zeros", name="counts")

    def update_state(self, report: Report) -> None:
        """Takes the Report of a sparse layer of `num_experts`."""
        counts = tf.add_n(_of_kind(report, "tokens", self.modality))
        if counts.shape != (self.num_experts,):
            raise ValueError(
                f"`report` must be of num_experts={self.num_experts}. Received: {counts.shape[0]}"
            )
        self.counts.assign_add(tf.cast(counts, self.counts.dtype))

    def result(self) -> tf.Tensor:
        counts = tf.convert_to_tensor(self.counts)
        return tf.exp(entropy(tf.math.divide_no_nan(counts, tf.reduce_sum(counts))))

    def get_config(self):
        own = {"num_experts": self.num_experts, "modality": self.modality}
        return {**super().get_config(), **own}
