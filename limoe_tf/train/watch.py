"""Keras callbacks that stop a long run, or warn, when training fails or experts collapse."""

import math
import warnings

import keras

from limoe_tf import checks
from limoe_tf.train.steps import StepCount, with_experts

_RATES, _ENTROPIES = "success_rate_", "marginal_entropy_"


class TooManySkipped(ValueError):
    """Too many steps in a row were not finite.

    Args:
      message: of the error.
      first_step: the first skipped step.
      last_step: the last.
      found: some of them with their loss and gradient norm, in one line.
    """

    def __init__(self, message: str, *, first_step: int, last_step: int, found: str):
        super().__init__(message)
        self.first_step, self.last_step, self.found = first_step, last_step, found


class StopWhenSkipping(keras.callbacks.Callback):
    """Stops training when too many steps in a row were skipped, as not finite.

    Where one call runs several steps, all count like its last one.

    Args:
      max_skipped: skipped steps in a row that are tolerated; one more raises `TooManySkipped`, a
        ValueError that names the steps and their values.
    """

    def __init__(self, max_skipped: int = 10):
        super().__init__()
        self.max_skipped = checks.integer_in("max_skipped", max_skipped, 0)

    def on_train_begin(self, logs=None):
        self._skipped, self._found = 0, []

    def on_epoch_begin(self, epoch, logs=None):
        self._count = StepCount(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self._count.advance()
        if not logs["skipped"]:
            self._skipped, self._found = 0, []
            return
        self._skipped += self._count.in_call
        self._found.append(
            f"step {self._count.step}: loss={logs['loss']:.6g}, "
            f"gradient_norm={logs['gradient_norm']:.6g}"
        )
        if self._skipped > self.max_skipped:
            found = "; ".join(self._found[:1] + self._found[1:][-4:])
            raise TooManySkipped(
                "Loss and gradient must be finite at least once in "
                f"max_skipped={self.max_skipped} + 1 steps. "
                f"Received: {self._skipped} skipped in a row, among them {found}",
                first_step=self._count.step - self._skipped + 1,
                last_step=self._count.step,
                found=found,
            )


class CollapseWatch(keras.callbacks.Callback):
    """Warns, once for each, when a modality's success rate or its entropy over experts stays low.

    The entropy is that of a layer's mean gate probabilities, which `compile(detailed_logs=True)`
    logs as `block_05/marginal_entropy_text`. Where k of the E experts are evenly used it is log(k).

    Args:
      threshold: success rate, the share of choices that are kept, below which a modality counts as
        collapsed.
      entropy_threshold: as a share of log(E), the entropy below which a modality counts as
        collapsed in a layer; 0.2 is 2 of 32 experts.
      patience_steps: steps in a row below the threshold before it warns; calls of several steps
        count like their last one.
    """

    def __init__(
        self,
        threshold: float = 0.5,
        *,
        entropy_threshold: float = 0.2,
        patience_steps: int = 1000,
    ):
        super().__init__()
        self.threshold = checks.number_in("threshold", threshold, 0, 1)
        self.entropy_threshold = checks.number_in("entropy_threshold", entropy_threshold, 0, 1)
        self.patience_steps = checks.positive_int("patience_steps", patience_steps)

    def on_train_begin(self, logs=None):
        self._low, self._warned = {}, set()

    def on_epoch_begin(self, epoch, logs=None):
        self._count = StepCount(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self._count.advance()
        logs = with_experts(self.model, logs)
        for name, value in logs.items():
            layer, _, kind = name.rpartition("/")
            if name.startswith(_RATES):
                if self._stays_low(name, value < self.threshold):
                    warnings.warn(self._of_rate(name, value), stacklevel=2)
            elif kind.startswith(_ENTROPIES):
                modality = kind.removeprefix(_ENTROPIES)
                num_experts = len(logs[f"{layer}/tokens_{modality}"])
                low = value < self.entropy_threshold * math.log(num_experts)
                if self._stays_low(name, low):
                    warnings.warn(self._of_entropy(name, value, num_experts), stacklevel=2)

    def _stays_low(self, name, low):
        """Returns True once: when a log has been low for long."""
        self._low[name] = self._low.get(name, 0) + self._count.in_call if low else 0
        if self._low[name] < self.patience_steps or name in self._warned:
            return False
        self._warned.add(name)
        return True

    def _of_rate(self, name, rate):
        return (
            f"The experts have dropped more than {1 - self.threshold:.0%} of the choices of "
            f"modality {name.removeprefix(_RATES)!r} for {self._low[name]} steps; "
            f"{name} is {rate:.3f}. Higher weights of its entropy losses, or a higher "
            "capacity factor, may help."
        )

    def _of_entropy(self, name, entropy, num_experts):
        return (
            f"A modality has used as few as {math.exp(entropy):.1f} of {num_experts} experts for "
            f"{self._low[name]} steps; {name} is {entropy:.3f}. A higher weight of its global "
            "entropy loss, or a higher `min_experts`, may help."
        )
