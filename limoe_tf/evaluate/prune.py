"""A smaller model with only the experts that a modality uses, for that modality or for both.

Axis letters: D width, Z embedding size, E experts, K choices.
"""

import types
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.model import sizes
from limoe_tf.model.contrastive import ContrastiveModel
from limoe_tf.model.limoe import MODALITIES, Limoe
from limoe_tf.tokens import modality_of
from limoe_tf.train import names


def shares(
    model: keras.Model, batches: Iterable[dict[str, tf.Tensor]], *, modality: str
) -> dict[int, np.ndarray]:
    """Measures each expert's share of a modality's choices, at inference.

    Args:
      model: `Limoe` or `VlMoe` on one replica.
      batches: yields batches of that modality only; for a `VlMoe` also of pairs, of which the
        choices of that modality count. Nothing is to be masked in them.
      modality: "image" or "text".

    Returns:
      dict by number of the sparse block, from 0, of <float64>[E] that sums to 1. With experts per
      modality, E is the number of this modality's experts.

    Raises:
      ValueError: if the model lacks the modality or has several replicas, or there is no batch.
    """
    _check(model, modality)
    streams = [stream for stream in model.stream_keys if modality_of(stream) == modality]
    wanted = tuple(f"/tokens_{stream}" for stream in streams)

    @tf.function(reduce_retracing=True, autograph=False)
    def route(batch):
        with model.on_replicas():
            metrics = model(batch, training=False)[1].metrics
        return {name: taken for name, taken in metrics.items() if name.endswith(wanted)}

    total = None
    for batch in batches:
        total = {} if total is None else total
        for name, taken in route(batch).items():
            block = _block(name.split("/"))
            total[block] = total.get(block, 0.0) + taken.numpy().astype(np.float64)
    if total is None:
        raise ValueError("`batches` must hold at least one batch. Received: none")
    return {block: counts / counts.sum() for block, counts in total.items()}


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


def pruned(model: keras.Model, *, modality: str, kept: Mapping[int, Sequence[int]]) -> keras.Model:
    """Makes the model with only some of the experts of a modality.

    The router's columns of the removed experts are removed as well: a token's gates are the softmax
    over the kept experts, of which the K highest are used; no other weight changes.

    A model that contrasts becomes one of the modality alone: the weights of the other are removed,
    and routers and experts per modality become shared ones. A `VlMoe` keeps all that is not an
    expert of the modality, and with it images, texts and pairs.

    Args:
      model: `Limoe`, `TwoTower` or `VlMoe` on one replica; it is not changed.
      modality: "image" or "text".
      kept: dict by number of each sparse block, from 0, of a list of experts; as of
        `experts_to_keep`.

    Returns:
      `Limoe` or `VlMoe` with the same `encode_image` or `encode_text`, except for tokens that had
      chosen a removed expert, and for gates that are higher without its column.

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
    make = _of_one_modality if isinstance(model, ContrastiveModel) else _of_all_streams
    smaller, values = make(model, values, modality=modality, kept=kept)
    variables = names.of_weights(smaller)
    if differing := sorted(variables.keys() ^ values):
        raise ValueError(
            f"`model` must have the weights of a {type(smaller).__name__}. "
            f"Received: {differing[:5]}"
        )
    for name, variable in variables.items():
        variable.assign(values[name])
    return smaller


def _of_one_modality(model, values, *, modality, kept):
    """Returns a `Limoe` with weights of its own still, and those that it is to have."""
    smaller = Limoe.from_config(
        {
            **model.get_config(),
            "frozen": (),  # Names of the other modality, too.
            "plan": model.plan,
            "modalities": (modality,),
            "routing": "shared",
            "num_experts": tuple(len(experts) for _, experts in sorted(kept.items())),
            # Thresholds of training, which may exceed the number of kept experts.
            "min_experts": None,
        }
    )
    return smaller, pruned_weights(values, modality=modality, kept=kept)


def _of_all_streams(model, values, *, modality, kept):
    """The same of a model of the kind, whose layers of a modality have its name."""
    config = model.get_config()
    experts = sizes.experts_of_modalities(config["num_experts"], model.plan)
    experts[modality] = {block: len(of_block) for block, of_block in sorted(kept.items())}
    counts = {name: tuple(of_block.values()) for name, of_block in experts.items()}
    found = {}
    for name, value in values.items():
        parts = name.split("/")
        found[name] = _kept(parts, value, kept, name) if modality in parts else value
    return type(model).from_config({**config, "num_experts": counts}), found


def pruned_weights(
    weights: Mapping[str, np.ndarray], *, modality: str, kept: Mapping[int, Sequence[int]]
) -> dict[str, np.ndarray]:
    """Selects from the weights of a model that contrasts those of one modality and some experts.

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
        found["/".join(parts)] = _kept(parts, value, kept, name)
    return found


def _kept(parts, value, kept, name):
    """Returns a weight without what belongs to experts that are not kept."""
    if "router" in parts and parts[-1] == "kernel":
        return _taken(value, kept[_block(parts)], axis=1, name=name)
    if "experts" in parts:
        return _taken(value, kept[_block(parts)], axis=0, name=name)
    return value


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
