"""Keras callbacks that watch over a long run: it stops, or warns, when training has gone wrong."""

import warnings

import keras

from limoe_tf import checks
from limoe_tf.train.steps import StepCount

_RATES = "success_rate_"


class StopWhenSkipping(keras.callbacks.Callback):
    """Stops training when too many steps in a row were skipped, as not finite.

    Where one call runs several steps, all count as its last one does.

    Args:
      max_skipped: skipped steps in a row that are borne; one more raises ValueError, which names
        the steps and their values.
    """

    def __init__(self, max_skipped=10):
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
            shown = self._found[:1] + self._found[1:][-4:]
            raise ValueError(
                "Loss and gradient must be finite at least once in "
                f"max_skipped={self.max_skipped} + 1 steps. "
                f"Received: {self._skipped} skipped in a row, among them {'; '.join(shown)}"
            )


class CollapseWatch(keras.callbacks.Callback):
    """Warns, once for each modality, when experts keep dropping its tokens.

    Args:
      threshold: success rate, the share of choices that find a slot, under which a modality is
        taken for collapsed.
      patience_steps: steps in a row that it must stay there; calls of several steps are judged by
        their last one.
    """

    def __init__(self, threshold=0.5, *, patience_steps=1000):
        super().__init__()
        self.threshold = checks.number_in("threshold", threshold, 0, 1)
        self.patience_steps = checks.positive_int("patience_steps", patience_steps)

    def on_train_begin(self, logs=None):
        self._low, self._warned = {}, set()

    def on_epoch_begin(self, epoch, logs=None):
        self._count = StepCount(self.model)

    def on_train_batch_end(self, batch, logs=None):
        self._count.advance()
        steps = self._count.in_call
        for name, rate in logs.items():
            if name.startswith(_RATES):
                self._low[name] = self._low.get(name, 0) + steps if rate < self.threshold else 0
                if self._low[name] >= self.patience_steps and name not in self._warned:
                    self._warned.add(name)
                    self._warn(name, rate)

    def _warn(self, name, rate):
        warnings.warn(
            f"The experts have dropped more than {1 - self.threshold:.0%} of the choices of "
            f"modality {name.removeprefix(_RATES)!r} for {self._low[name]} steps; "
            f"{name} is {rate:.3f}. Higher weights of its entropy losses, or a higher "
            "capacity factor, may help.",
            stacklevel=2,
        )
