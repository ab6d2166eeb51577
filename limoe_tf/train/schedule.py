"""Learning rates as functions of the step: linear warm-up, a decay, linear cool-down to zero."""

import math

import keras
import tensorflow as tf

from limoe_tf import checks


@keras.saving.register_keras_serializable(package="limoe_tf")
class ReciprocalSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """Reciprocal square-root decay after a linear warm-up, with a linear cool-down.

    The rate is the base rate at the end of the warm-up, divided by sqrt(2) `timescale` steps later,
    and zero from `total_steps` on when there is a cool-down.

    Args:
      base_learning_rate: the highest rate.
      total_steps: T, steps of the whole run.
      warmup_steps: steps of the linear warm-up from zero.
      timescale: steps after the warm-up at which the rate is base / sqrt(2).
      cooldown_steps: last steps, over which a factor falls linearly from one to zero.

    Raises:
      ValueError: if a number is out of range, or warm-up and cool-down do not fit into the run.

    Reference: Scaling Vision Transformers, https://arxiv.org/abs/2106.04560, section 3.5.
    """

    def __init__(
        self,
        base_learning_rate: float,
        total_steps: int,
        warmup_steps: int = 10_000,
        timescale: int = 10_000,
        cooldown_steps: int = 50_000,
    ):
        self.base_learning_rate = float(
            checks.number_in("base_learning_rate", base_learning_rate, 0)
        )
        _check_steps(total_steps, warmup_steps, cooldown_steps)
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.timescale = checks.positive_int("timescale", timescale)
        self.cooldown_steps = cooldown_steps

    def relative(self, step: int | tf.Tensor) -> tf.Tensor:
        """Returns the rate at `step` as a share of the base rate, <float32>[] in [0, 1]."""
        step = _as_float(step)
        since_warmup = tf.maximum(step - self.warmup_steps, 0.0)
        decay = tf.math.rsqrt(1.0 + since_warmup / self.timescale)
        ramps = _ramps(step, self.total_steps, self.warmup_steps, self.cooldown_steps)
        return decay * ramps

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        return self.base_learning_rate * self.relative(step)

    def get_config(self):
        return {
            "base_learning_rate": self.base_learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "timescale": self.timescale,
            "cooldown_steps": self.cooldown_steps,
        }


@keras.saving.register_keras_serializable(package="limoe_tf")
class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """Cosine decay after a linear warm-up, from the base rate to zero at `total_steps`.

    Args:
      base_learning_rate: the highest rate.
      total_steps: T, steps of the whole run.
      warmup_steps: steps of the linear warm-up from zero.
      cooldown_steps: last steps, over which a further factor falls linearly from one to zero.

    Raises:
      ValueError: if a number is out of range, or warm-up and cool-down do not fit into the run.

    Reference: SGDR, https://arxiv.org/abs/1608.03983, equation 5 without restarts.
    """

    def __init__(
        self,
        base_learning_rate: float,
        total_steps: int,
        warmup_steps: int = 10_000,
        cooldown_steps: int = 0,
    ):
        self.base_learning_rate = float(
            checks.number_in("base_learning_rate", base_learning_rate, 0)
        )
        _check_steps(total_steps, warmup_steps, cooldown_steps)
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.cooldown_steps = cooldown_steps

    def relative(self, step: int | tf.Tensor) -> tf.Tensor:
        """Returns the rate at `step` as a share of the base rate, <float32>[] in [0, 1]."""
        step = _as_float(step)
        decay_steps = max(self.total_steps - self.warmup_steps, 1)
        progress = tf.clip_by_value((step - self.warmup_steps) / decay_steps, 0.0, 1.0)
        ramps = _ramps(step, self.total_steps, self.warmup_steps, self.cooldown_steps)
        return 0.5 * (1.0 + tf.cos(math.pi * progress)) * ramps

    def __call__(self, step: int | tf.Tensor) -> tf.Tensor:
        return self.base_learning_rate * self.relative(step)

    def get_config(self):
        return {
            "base_learning_rate": self.base_learning_rate,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "cooldown_steps": self.cooldown_steps,
        }


def _as_float(step):
    # Through a tensor first: a Keras variable keeps its value in the scope it is read in.
    return tf.cast(tf.convert_to_tensor(step), tf.float32)


def _ramps(step, total_steps, warmup_steps, cooldown_steps):
    """Returns the product of the linear warm-up and the linear cool-down at `step`."""
    factor = tf.ones_like(step)
    if warmup_steps:
        factor *= tf.minimum(step / warmup_steps, 1.0)
    if cooldown_steps:
        factor *= tf.clip_by_value((total_steps - step) / cooldown_steps, 0.0, 1.0)
    return factor


def _check_steps(total_steps, warmup_steps, cooldown_steps):
    checks.positive_int("total_steps", total_steps)
    checks.integer_in("warmup_steps", warmup_steps, 0)
    checks.integer_in("cooldown_steps", cooldown_steps, 0)
    if warmup_steps + cooldown_steps > total_steps:
        raise ValueError(
            "`warmup_steps` + `cooldown_steps` must be at most total_steps="
            f"{total_steps}. Received: warmup_steps={warmup_steps}, "
            f"cooldown_steps={cooldown_steps}"
        )
