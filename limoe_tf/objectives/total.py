"""The weighted sum of all named losses: the scalar that is differentiated."""

from collections.abc import Mapping

import tensorflow as tf

# Of the paper's seven auxiliary losses all but the local entropy of images, which it found harmful.
# It does not print the weights: these are V-MoE's for importance and load, ST-MoE's for z, and a
# choice for the entropies. Losses of several layers are summed.
DEFAULT_WEIGHTS = {
    "contrastive": 1.0,
    "importance": 0.005,
    "load": 0.005,
    "z": 0.001,
    "local_entropy_image": 0.0,
    "local_entropy_text": 0.04,
    "global_entropy_image": 0.04,
    "global_entropy_text": 0.04,
    "mutual_information": 0.0,
}


def total(losses: Mapping[str, tf.Tensor], weights: Mapping[str, float]) -> tf.Tensor:
    """Returns the weighted sum of `losses`.

    Args:
      losses: dict of <float32>[] by names such as `block_05/text/importance`.
      weights: dict of floats by the end of those names: `text/importance`, or `importance` for what
        has no longer one.

    Returns:
      <float32>[].

    Raises:
      ValueError: if a loss has no weight.
    """
    kinds = {name: _end_of(name, weights) for name in losses}
    unweighted = sorted(name for name, kind in kinds.items() if kind is None)
    if unweighted:
        raise ValueError(
            f"Every loss needs a weight; 0 leaves it out. Received: losses={unweighted} "
            f"without one, weights={weights}"
        )
    terms = [weights[kind] * losses[name] for name, kind in kinds.items() if weights[kind]]
    return tf.add_n(terms) if terms else tf.zeros([])


def _end_of(name, weights):
    """Returns the longest end of a name, from one of its slashes on, that has a weight, or None."""
    parts = name.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in weights), None)


def check_weights(
    weights: Mapping[str, float] | None, defaults: Mapping[str, float] = DEFAULT_WEIGHTS
) -> dict[str, float]:
    """Returns the default weights, overridden by `weights`.

    Args:
      weights: dict of floats by loss name, or None.
      defaults: those of all losses of a model.

    Raises:
      ValueError: if a name is not that of a loss, or a weight is negative or not finite.
    """
    weights = dict(weights or {})
    unknown = sorted(set(weights) - set(defaults))
    if unknown:
        raise ValueError(
            f"`loss_weights` must name losses among {sorted(defaults)}. Received: {unknown}"
        )
    for name, value in weights.items():
        if not 0 <= value < float("inf"):
            raise ValueError(
                f"`loss_weights` must be finite and not negative. Received: {name}={value}"
            )
    return {**defaults, **weights}
