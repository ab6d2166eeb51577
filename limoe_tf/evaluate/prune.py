"""A smaller model for one modality, with only the experts that the modality uses.

Axis letters: D width, Z embedding size, E experts, K choices.
"""

import types
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.model.limoe import MODALITIES, Limoe
from limoe_tf.train import names


def shares(
    model: Limoe, batches: Iterable[dict[str, tf.Tensor]], *, modality: str
) -> dict[int, np.ndarray]:
    """Measures each expert's share of a modality's choices, at inference.

    Args:
      model: `Limoe` on one replica.
      batches: yields batches of that modality only.
      modality: "image" or "text".

    Returns:
      dict by number of the sparse block, from 0, of <float64>[E] that sums to 1. With experts per
      modality, E is the number of this modality's experts.

    Raises:
      ValueError: if the model lacks the modality or has several replicas, or there is no batch.
    """
    _check(model, modality)

    @tf.function(reduce_retracing=True, autograph=False)
    def route(batch):
        with model.on_replicas():
            metrics = model(batch, training=False)[1].metrics
        wanted = f"/tokens_{modality}"
        return {name: taken for name, taken in metrics.items() if name.endswith(wanted)}

    total = None
    for batch in batches:
        taken = {name: value.numpy().astype(np.float64) for name, value in route(batch).items()}
        total = taken if total is None else {name: total[name] + taken[name] for name in taken}
    if total is None:
        raise ValueError("`batches` must hold at least one batch. Received: none")
    return {
        int(name.split("/")[0].removeprefix("block_")): counts / counts.sum()
        for name, counts in total.items()
    }


def experts_to_keep(
    shares: Mapping[int, np.ndarray],
    *,
    coverage: float | None = None,
    min_share: float | None = None,
    num_choices: int = 1,
) -> dict[int, list[int]]:
    """Chooses the experts to keep in each block: at least K, the most used first.

    Args:
      shares: dict by block of <float>[E], as of the function `shares`.
      coverage: keeps the fewest experts that together have this share of the choices. Give this or
        `min_share`.
      min_share: keeps the experts that each have at least this share.
      num_choices: K.

    Returns:
      dict by block of a sorted list of experts.

    Raises:
      ValueError: if not exactly one of the two is given, or it is not between 0 and 1.
    """
    if (coverage is None) == (min_share is None):
        raise ValueError(
            "Exactly one of `coverage` and `min_share` must be given. "
            f"Received: coverage={coverage}, min_share={min_share}"
        )
    for name, value in (("coverage", coverage), ("min_share", min_share)):
        if value is not None:
            checks.number_in(name, value, 0, 1)
    kept = {}
    for block, share in shares.items():
        order = np.argsort(-share, kind="stable")
        if coverage is None:
            number = np.sum(share >= min_share)
        else:
            # The tolerance is for sums that are 1 up to rounding.
            number = 1 + np.searchsorted(np.cumsum(share[order]), coverage - 1e-9)
        kept[block] = sorted(order[: max(number, num_choices)].tolist())
    return kept


def pruned(model: keras.Model, *, modality: str, kept: Mapping[int, Sequence[int]]) -> Limoe:
    """Makes the model of one modality with only some of the experts.

    The router's columns of the removed experts are removed as well: a token's gates are the softmax
    over the kept experts, of which the K highest are used; no other weight changes. The weights of
    the other modality are removed. Routers and experts per modality become shared ones.

    Args:
      model: `Limoe` or `TwoTower` on one replica; it is not changed.
      modality: "image" or "text".
      kept: dict by number of each sparse block, from 0, of a list of experts; as of
        `experts_to_keep`.

    Returns:
      `Limoe` with the same `encode_image` or `encode_text`, except for tokens that had chosen a
      removed expert, and for gates that are higher without its column.

    Raises:
      ValueError: if the model lacks the modality or has several replicas, or `kept` does not list
        experts of each sparse block.

    Reference: https://arxiv.org/abs/2206.02770, section 4.2, without a method of pruning.
    """
    _check(model, modality)
    sparse = [number for number, word in enumerate(model.plan) if word == "sparse"]
    if sorted(kept) != sparse:
        raise ValueError(
            f"`kept` must name experts of each of the sparse blocks {sparse}. Received: {kept}"
        )
    values = {name: variable.numpy() for name, variable in names.of_weights(model).items()}
    values = pruned_weights(values, modality=modality, kept=kept)
    smaller = Limoe.from_config(
        {
            **model.get_config(),
            "frozen": (),  # Names of the other modality, too.
            "plan": model.plan,
            "modalities": (modality,),
            "routing": "shared",
            "num_experts": tuple(len(kept[block]) for block in sparse),
            # Thresholds of training, which may exceed the number of kept experts.
            "min_experts": None,
        }
    )
    variables = names.of_weights(smaller)
    if differing := sorted(variables.keys() ^ values):
        raise ValueError(f"`model` must have the weights of a Limoe. Received: {differing[:5]}")
    for name, variable in variables.items():
        variable.assign(values[name])
    return smaller


def pruned_weights(
    weights: Mapping[str, np.ndarray], *, modality: str, kept: Mapping[int, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Selects from the weights of a model those of one modality and of some experts.

    Args:
      weights: dict of arrays by name, as `train.names.of_weights` names them.
      modality: "image" or "text".
      kept: dict by block of a list of experts.

    Returns:
      dict of arrays, under their names in a model of that modality only.

    Raises:
      ValueError: if an expert does not exist, or is listed twice.
    """
    (other,) = set(MODALITIES) - {modality}
    others = {other, f"{other}_embed", f"{other}_head", f"{other}_encoder", f"kernel_{other}"}
    found = {}
    for name, value in weights.items():
        parts = name.split("/")
        if others & set(parts):
            continue
        # Experts and towers per modality become the shared ones.
        parts = [part for part in parts if part not in (modality, f"{modality}_encoder")]
        parts[-1] = parts[-1].removesuffix(f"_{modality}")
        if "router" in parts and parts[-1] == "kernel":
            value = _taken(value, kept[_block(parts)], axis=1, name=name)
        elif "experts" in parts:
            value = _taken(value, kept[_block(parts)], axis=0, name=name)
        found["/".join(parts)] = value
    return found


def _block(parts):
    return next(int(p.removeprefix("block_")) for p in parts if p.startswith("block_"))


def _taken(value, experts, *, axis, name):
    for expert in experts:
        checks.integer_in(f"kept, experts of {name}", expert, 0, value.shape[axis] - 1)
    if len(set(experts)) != len(experts):
        raise ValueError(f"`kept` must name each expert once. Received: {experts} of {name}")
    return np.take(value, experts, axis=axis)


def combined(whole: keras.Model, smaller: Limoe, *, modality: str) -> types.SimpleNamespace:
    """Returns the model interface of evaluation tasks, with one modality from the smaller model."""
    by = {name: smaller if name == modality else whole for name in MODALITIES}
    of_images = (
        "image_size", "encode_image", "image_features", "logit_scale", "on_replicas",
        "distribute_strategy",
    )  # fmt: skip
    found = {name: getattr(by["image"], name) for name in of_images}
    by_text = {name: getattr(by["text"], name) for name in ("encode_text", "companions")}
    return types.SimpleNamespace(**found, **by_text)


def _check(model, modality):
    checks.one_of("modality", modality, model.modalities)
    if (replicas := model.distribute_strategy.num_replicas_in_sync) > 1:
        raise ValueError(f"`model` must be on one replica to be pruned. Received: {replicas}")
