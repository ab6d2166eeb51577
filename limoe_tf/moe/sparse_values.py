"""Values of the sparse layer's constructor: checked, and the losses that they add."""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.moe import balance, observe
from limoe_tf.report import Report

# Arguments of the sparse layer that a model's constructor hands on as they are.
OF_MODELS = (
    "num_choices", "capacity_factor", "inference_capacity_factor", "normalize_gates", "group_size",
    "dispatch_order", "router_noise", "same_expert_init",
)  # fmt: skip
# Weights of the losses of a plain tensor: V-MoE's, and ST-MoE's for z.
PLAIN_LOSS_WEIGHTS = {"importance": 0.005, "load": 0.005, "z": 0.001}


def choices(num_choices: int, num_experts: int) -> int:
    """Returns K if it is an integer in 1..E."""
    checks.positive_int("num_choices", num_choices)
    if num_choices > num_experts:
        raise ValueError(
            f"`num_choices` must be between 1 and num_experts={num_experts}. "
            f"Received: num_choices={num_choices}"
        )
    return num_choices


def capacity_factor(name: str, value: float | None) -> float | None:
    """Returns a capacity factor if it is a number of at least 0, or None, which drops no token."""
    return None if value is None else checks.number_in(name, value, 0)


def min_experts(
    values: Mapping[str, float] | None,
    modalities: Sequence[str],
    num_experts: int,
    *,
    plain_name: str,
) -> dict[str, float]:
    """Returns the soft minimum of experts of every stream that the layer takes.

    Args:
      values: dict by modality, or None for the defaults.
      modalities: names of the streams.
      num_experts: E.
      plain_name: of a stream that is a plain tensor; it may be left out.

    Raises:
      ValueError: if a modality is missing, or a number is not in 1..E.
    """
    defaults = balance.default_min_experts(num_experts, (*modalities, plain_name))
    if values is None:
        return defaults
    missing = [name for name in modalities if name not in values]
    if missing:
        raise ValueError(
            f"`min_experts` must name every modality of {modalities}. "
            f"Received: min_experts={values}"
        )
    for name, value in values.items():
        checks.number_in(f"min_experts[{name!r}]", value, 1, num_experts)
    return {**defaults, **values}


def loss_weights(
    values: Mapping[str, float] | None, modalities: Sequence[str], *, plain_name: str
) -> dict[str, float] | None:
    """Returns weights by loss name if all are losses of the layer; None if there are none."""
    if values is None:
        return None
    names = observe.loss_names(modalities)
    names += [name for name in observe.loss_names([plain_name]) if name not in names]
    for name in values:
        checks.one_of("loss_weights", name, names)
    return dict(values)


def weighted(
    report: Report, weights: Mapping[str, float] | None, *, plain: bool
) -> list[tf.Tensor]:
    """Returns the weighted losses of a call: <float32>[] each.

    Args:
      report: of the call; of an absent modality it has no losses.
      weights: of the layer; None for the defaults.
      plain: whether the call was with a plain tensor, whose losses nobody else reads.
    """
    if weights is None:
        weights = PLAIN_LOSS_WEIGHTS if plain else {}
    return [weights[name] * loss for name, loss in report.losses.items() if name in weights]


def metrics(values: Sequence[keras.metrics.Metric | Mapping]) -> list[keras.metrics.Metric]:
    """Returns metrics, made of their configs where these are given.

    Raises:
      TypeError: if one is no metric.
    """
    made = [
        keras.saving.deserialize_keras_object(one) if isinstance(one, Mapping) else one
        for one in values
    ]
    for one in made:
        if not isinstance(one, keras.metrics.Metric):
            raise TypeError(f"`routing_metrics` must be metrics of Keras. Received: {one!r}")
    return made
