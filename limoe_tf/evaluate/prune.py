"""A smaller model for one modality: of each sparse block only the experts that the modality uses.

Axis letters: D width, Z embedding size, E experts, K choices.
"""

import types

import numpy as np
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.model.limoe import MODALITIES, Limoe
from limoe_tf.train import names


def shares(model, batches, *, modality):
    """Measures which share of a modality's choices each expert takes, at inference.

    Args:
      model: `Limoe` on one replica.
      batches: yields batches of that modality alone.
      modality: "image" or "text".

    Returns:
      dict by number of the sparse block, from 0, of <float64>[E] that sums to 1. Of experts that
      each modality has of its own, E counts this modality's.

    Raises:
      ValueError: if the model has not the modality or several replicas, or there is no batch.
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


def experts_to_keep(shares, *, coverage=None, min_share=None, num_choices=1):
    """Chooses the experts that stay, block by block; at least K of them, the most used first.

    Args:
      shares: dict by block of <float>[E], as of the function `shares`.
      coverage: the fewest experts that together take this share of the choices stay. Give this or
        `min_share`.
      min_share: the experts that take at least this share each stay.
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
            # The tolerance is for sums that are 1 but for rounding.
            number = 1 + np.searchsorted(np.cumsum(share[order]), coverage - 1e-9)
        kept[block] = sorted(order[: max(number, num_choices)].tolist())
    return kept


def pruned(model, *, modality, kept):
    """Makes the model of one modality that has only some of the experts.

    The router's columns of the others go with them: a token's gates are the softmax over those that
    are left, of which it takes the K highest, and no other weight changes. What belongs to the
    other modality alone is left out too. Routers and pools of its own become a shared router.

    Args:
      model: `Limoe` or `TwoTower` on one replica; it is left as it is.
      modality: "image" or "text".
      kept: dict by number of each sparse block, from 0, of a list of experts; as of
        `experts_to_keep`.

    Returns:
      `Limoe` with the same `encode_image` or `encode_text`, except for tokens that had chosen an
      expert that is gone, and for gates that are higher for the lack of its column.

    Raises:
      ValueError: if the model has not the modality, or several replicas, or `kept` does not name
        experts of each sparse block.

    Reference: https://arxiv.org/abs/2206.02770, section 4.2, which does not say how it prunes.
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
            "plan": model.plan,
            "modalities": (modality,),
            "routing": "shared",
            "num_experts": tuple(len(kept[block]) for block in sparse),
            # Thresholds of training; the old ones may be more than the experts that are left.
            "min_experts": None,
        }
    )
    variables = names.of_weights(smaller)
    if differing := sorted(variables.keys() ^ values):
        raise ValueError(f"`model` must have the weights of a Limoe. Received: {differing[:5]}")
    for name, variable in variables.items():
        variable.assign(values[name])
    return smaller


def pruned_weights(weights, *, modality, kept):
    """Picks from the weights of a model those of one modality and of some experts.

    Args:
      weights: dict of arrays by name, as `train.names.of_weights` names them.
      modality: "image" or "text".
      kept: dict by block of a list of experts.

    Returns:
      dict of arrays, under the names that they have in a model of that modality alone.

    Raises:
      ValueError: if an expert is not there, or stands twice.
    """
    (other,) = set(MODALITIES) - {modality}
    others = {other, f"{other}_embed", f"{other}_head", f"{other}_encoder", f"kernel_{other}"}
    found = {}
    for name, value in weights.items():
        parts = name.split("/")
        if others & set(parts):
            continue
        # A pool and a tower of its own take the place of what is shared.
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


def in_place(whole, smaller, *, modality):
    """Returns what evaluation tasks need of a model, with one modality from the smaller model."""
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
