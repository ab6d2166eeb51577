"""The optimizers: Adafactor of the large vision Transformers, AdamW with decay on kernels only."""

import math
import re
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.train.adafactor_update import Scaled, update

# Layers whose matrices have experts along an axis: expert weights [E, ...] and routers [D, E].
_EXPERTS = re.compile(r"(^|/)experts(_\w+)?/")
_ROUTER = re.compile(r"(^|/)router(_\w+)?/")


def is_kernel(path: str) -> bool:
    """Returns whether the variable at `path` has weight decay: its name begins with "kernel"."""
    return path.split("/")[-1].startswith("kernel")


def is_expert(path: str) -> bool:
    """Returns whether the first axis of the variable at `path` is that of experts."""
    return _EXPERTS.search(path) is not None


def factored_axes(
    path: str, shape: Sequence[int], *, min_dim_size_to_factor: int
) -> tuple[int, int] | None:
    """Returns the two axes over which a second moment is factored, or None for a full one.

    They are the two largest axes if both have `min_dim_size_to_factor` entries or more; the larger
    comes last. Experts are never averaged over: the first axis of a variable below a layer named
    "experts" is no candidate, and the kernel of a layer named "router" is not factored at any size
    (both also with a suffix, as in "router_image").
    """
    candidates = range(1 if is_expert(path) else 0, len(shape))
    if _ROUTER.search(path) or len(candidates) < 2:
        return None
    second, largest = sorted(candidates, key=lambda axis: (shape[axis], axis))[-2:]
    return (second, largest) if shape[second] >= min_dim_size_to_factor else None


@keras.saving.register_keras_serializable(package="limoe_tf")
class Adafactor(keras.optimizers.Optimizer):
    """Adafactor as used for ViT-G and LiT: momentum in half precision, decoupled weight decay.

    With gradient g, step t counted from zero and schedule s(t) in [0, 1]:

        v <- b2(t) v + (1 - b2(t)) (g^2 + epsilon),   b2(t) = min(beta_2_cap, 1 - (t + 1)^-exponent)
        m <- beta_1 m + (1 - beta_1) g / sqrt(v)
        w <- w - s(t) (base_learning_rate m + weight_decay w)         (decay on kernels only)

    v is stored as row and column means where `factored_axes` returns two axes. There is no bias
    correction, no clipping of the update, and no scaling by the size of the weights.

    Args:
      learning_rate: a number (then s = 1), or a schedule that has `relative(step)`.
      weight_decay: share of a kernel taken away per step at the full rate; not multiplied by the
        learning rate.
      beta_1: decay rate of the first moment.
      beta_2_cap: upper bound of the second moment's decay rate.
      beta_2_exponent: how fast that rate approaches one.
      epsilon: added to the squared gradient.
      min_dim_size_to_factor: a second moment with a smaller second axis is not factored.
      momentum_dtype: dtype in which the first moment is stored.
      name: name of the optimizer.
      **kwargs: what every Keras optimizer takes, such as `global_clipnorm`.

    Raises:
      ValueError: if a number is out of range.
      TypeError: if there is weight decay and the schedule has no `relative`.

    Reference: Scaling Vision Transformers, https://arxiv.org/abs/2106.04560, section 3.4.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        *,
        weight_decay: float = 0.0,
        beta_1: float = 0.9,
        beta_2_cap: float = 0.999,
        beta_2_exponent: float = 0.8,
        epsilon: float = 1e-30,
        min_dim_size_to_factor: int = 32,
        momentum_dtype: str = "bfloat16",
        name: str = "adafactor",
        **kwargs,
    ):
        weight_decay = checks.number_in("weight_decay", weight_decay, 0)
        if not callable(learning_rate):
            learning_rate = float(checks.number_in("learning_rate", learning_rate, 0))
        elif weight_decay and not hasattr(learning_rate, "relative"):
            raise TypeError(
                "`learning_rate` must be a number or a schedule with a method `relative` when "
                f"weight decay is used. Received: learning_rate={learning_rate!r}"
            )
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, name=name, **kwargs
        )
        self.beta_1 = checks.number_in("beta_1", beta_1, 0, 1)
        self.beta_2_cap = checks.number_in("beta_2_cap", beta_2_cap, 0, 1)
        self.beta_2_exponent = checks.number_in("beta_2_exponent", beta_2_exponent, 0)
        self.epsilon = checks.number_in("epsilon", epsilon, 0)
        self.min_dim_size_to_factor = checks.positive_int(
            "min_dim_size_to_factor", min_dim_size_to_factor
        )
        self.momentum_dtype = checks.one_of(
            "momentum_dtype", momentum_dtype, ("bfloat16", "float32")
        )

    def slot_specs(self, path: str, shape: Sequence[int]) -> dict[str, tf.TensorSpec]:
        """Returns name -> tf.TensorSpec of a variable's slots, without allocating them."""
        shape = tuple(shape)
        axes = self._factored_axes(path, shape)
        specs = {"momentum": tf.TensorSpec(shape, self.momentum_dtype)}
        if axes is None:
            specs["second_moment"] = tf.TensorSpec(shape, tf.float32)
        else:
            second, largest = axes
            specs["second_moment_rows"] = tf.TensorSpec(_without(shape, largest), tf.float32)
            specs["second_moment_columns"] = tf.TensorSpec(_without(shape, second), tf.float32)
        return specs

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates the slots of `variables`."""
        if self.built:
            return
        super().build(variables)
        self._axes, self._decayed, self._momentums, self._second_moments = [], [], [], []
        for variable in variables:
            path = _path(variable)
            momentum, *second_moments = [
                self._add_slot(variable, name, spec)
                for name, spec in self.slot_specs(path, variable.shape).items()
            ]
            self._axes.append(self._factored_axes(path, variable.shape))
            self._decayed.append(self.weight_decay > 0 and is_kernel(path))
            self._momentums.append(momentum)
            self._second_moments.append(tuple(second_moments))

    def _factored_axes(self, path, shape):
        return factored_axes(path, shape, min_dim_size_to_factor=self.min_dim_size_to_factor)

    def _add_slot(self, variable, name, spec):
        # Colocated with its variable: under tf.distribute a slot is then mirrored in the same way.
        with self._distribution_strategy.extended.colocate_vars_with(
            getattr(variable, "value", variable)
        ):
            return self.add_variable(
                shape=tuple(spec.shape),
                dtype=spec.dtype.name,
                initializer="zeros",
                name=f"{_path(variable).replace('/', '_').replace(':', '_')}_{name}",
            )

    def update_step(
        self, gradient: tf.Tensor | Scaled, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Updates one variable; Keras calls it once for each of them.

        Args:
          gradient: <float>[...], or `adafactor_update.Scaled`.
          variable: the variable that it is the gradient of.
          learning_rate: <float>[].
        """
        index = self._get_variable_index(variable)
        slots = [self._momentums[index], *self._second_moments[index]]
        step = tf.cast(self.iterations, tf.float32)
        results = update(
            gradient,
            variable,
            slots,
            beta_2=tf.minimum(self.beta_2_cap, 1.0 - (step + 1.0) ** -self.beta_2_exponent),
            learning_rate=learning_rate,
            decay=self.weight_decay * self._relative_rate() if self._decayed[index] else 0.0,
            axes=self._axes[index],
            beta_1=self.beta_1,
            epsilon=self.epsilon,
        )
        for target, value in zip((variable, *slots), results):
            self.assign(target, value)

    def _relative_rate(self):
        schedule = self._learning_rate
        return schedule.relative(self._iterations) if hasattr(schedule, "relative") else 1.0

    def _apply_weight_decay(self, variables):
        """Does nothing: Keras would multiply decay by the learning rate; `update_step` decays."""

    def get_config(self):
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2_cap": self.beta_2_cap,
            "beta_2_exponent": self.beta_2_exponent,
            "epsilon": self.epsilon,
            "min_dim_size_to_factor": self.min_dim_size_to_factor,
            "momentum_dtype": self.momentum_dtype,
        }


@keras.saving.register_keras_serializable(package="limoe_tf")
class AdamW(keras.optimizers.AdamW):
    """Keras' AdamW with weight decay (times the learning rate) on kernels only.

    Args:
      rate_factors: dict of factors of the learning rate by pattern, each found somewhere in the
        paths of variables; a variable has the product of all that are found in its own. Decay has
        no factor. None for none at all.
      **kwargs: what `keras.optimizers.AdamW` takes.

    Raises:
      ValueError: if a factor is negative, or, when the optimizer is built, a pattern matches
        nothing.
    """

    def __init__(self, *args, rate_factors: Mapping[str, float] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.rate_factors = dict(rate_factors or {})
        for pattern, factor in self.rate_factors.items():
            checks.number_in(f"rate_factors[{pattern!r}]", factor, 0)

    def update_step(self, gradient, variable, learning_rate):
        if self.rate_factors:
            learning_rate = self._factor(variable) * learning_rate
        super().update_step(gradient, variable, learning_rate)

    def _factor(self, variable):
        found = [f for p, f in self.rate_factors.items() if re.search(p, _path(variable))]
        return math.prod(found)

    def get_config(self):
        config = super().get_config()
        return {**config, "rate_factors": self.rate_factors} if self.rate_factors else config

    def build(self, variables):
        """Creates the slots of `variables`."""
        if not self.built:
            others = [variable for variable in variables if not is_kernel(_path(variable))]
            self.exclude_from_weight_decay(var_list=others)
            paths = [_path(variable) for variable in variables]
            for pattern in self.rate_factors:
                if not any(re.search(pattern, path) for path in paths):
                    raise ValueError(
                        "`rate_factors` must name weights that are trained. "
                        f"Received: {pattern!r}, which matches none, such as {paths[0]!r}"
                    )
        super().build(variables)


def _path(variable):
    return getattr(variable, "path", variable.name)


def _without(shape, axis):
    return shape[:axis] + shape[axis + 1 :]
