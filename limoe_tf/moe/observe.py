"""The Report of a sparse layer: auxiliary losses and routing metrics of each modality.

Every number is of the global batch; all sums over replicas are one all-reduce of one vector.
"""

from collections.abc import Mapping, Sequence

import tensorflow as tf

from limoe_tf import packing, tokens
from limoe_tf.mesh import replicas
from limoe_tf.moe import balance
from limoe_tf.moe.assign import Assignment
from limoe_tf.moe.router import Gates
from limoe_tf.report import Report


def observe(
    gates: Gates,
    assignment: Assignment,
    valid: tf.Tensor,
    layout: tokens.Layout,
    *,
    num_choices: int,
    noise_std: float,
    min_experts: Mapping[str, float],
    in_groups: bool = True,
) -> Report:
    """Returns the Report of one call of a sparse layer.

    Args:
      gates: `router.Gates` of <float32>[G, S, E].
      assignment: `assign.Assignment`.
      valid: <bool>[G, S] False on padding.
      layout: `tokens.Layout` of the groups.
      num_choices: K.
      noise_std: scale of the load loss.
      min_experts: dict of S by modality; log S is the threshold of its global entropy loss.
      in_groups: whether `importance` and `load` are means over groups; if not, the global batch is
        one group, as where no token is dropped.

    Returns:
      Report with the losses `importance`, `load`, `z`, `local_entropy_M` and `global_entropy_M` for
      each modality M and, with two modalities or more, `mutual_information`; and the metrics
      `success_rate_M` (share of choices that were kept), `tokens_M` <float32>[E] (choices kept by
      each expert), `marginal_entropy_M`, `max_gate_M` (mean of the largest gate).
    """
    masses = _masses(gates, valid, num_choices=num_choices, noise_std=noise_std)
    if in_groups:
        imbalance = {
            name: balance.squared_coefficient_of_variation(mass) for name, mass in masses.items()
        }
    else:
        imbalance = {name: tf.reduce_sum(mass, axis=0) for name, mass in masses.items()}
    local = {"all": _sums_of_all(gates, valid), "imbalance": imbalance}
    flags = layout.segments(valid)
    probabilities = layout.segments(gates.clean_probabilities)
    experts, kept = layout.segments(assignment.expert), layout.segments(assignment.kept)
    for name in layout.lengths:
        local[name] = _sums_of_modality(
            probabilities[name], experts[name], kept[name], flags[name], num_choices=num_choices
        )
    sums = _over_replicas(local)
    imbalance = {
        name: value / replicas.current().count
        if in_groups
        else balance.squared_coefficient_of_variation(value)
        for name, value in sums["imbalance"].items()
    }
    losses = {
        **imbalance,
        "z": tf.math.divide_no_nan(sums["all"]["z"], sums["all"]["tokens"]),
    }
    metrics, marginals = {}, []
    for name in layout.lengths:
        marginal = _mean(sums[name], "probabilities")
        marginals.append(marginal)
        losses[f"local_entropy_{name}"] = _mean(sums[name], "entropy")
        losses[f"global_entropy_{name}"] = balance.thresholded_global_entropy(
            marginal, min_experts=min_experts[name]
        )
        metrics[f"success_rate_{name}"] = _mean(sums[name], "kept") / num_choices
        metrics[f"tokens_{name}"] = sums[name]["kept_by_expert"]
        metrics[f"marginal_entropy_{name}"] = balance.entropy(marginal)
        metrics[f"max_gate_{name}"] = _mean(sums[name], "max_gate")
    if len(marginals) > 1:
        losses["mutual_information"] = balance.negative_mutual_information(marginals)
    return Report(losses, {name: tf.stop_gradient(value) for name, value in metrics.items()})


def each_token(
    assignment: Assignment, priority: tf.Tensor, valid: tf.Tensor, layout: tokens.Layout
) -> dict[str, tf.Tensor]:
    """Returns each token's assignments, as metrics of a Report.

    Args:
      assignment: `assign.Assignment` of <..>[G, S, K].
      priority: <float32>[G, S] by which slots were given.
      valid: <bool>[G, S] False on padding.
      layout: `tokens.Layout` of the groups.

    Returns:
      dict of, for each modality M, `token_expert_M` <int32>[B, N, K] (-1 on padding),
      `token_kept_M` <bool>[B, N, K], `token_gate_M` <float32>[B, N, K] and `token_rank_M`
      <float32>[B, N, 1], the rank of its priority in the group: 0 for the highest, 1 for the
      lowest.
    """
    order = tf.argsort(
        tf.where(valid, priority, priority.dtype.min), direction="DESCENDING", stable=True
    )
    rank = tf.cast(tf.argsort(order, stable=True), tf.float32)
    last = tf.reduce_sum(tf.cast(valid, tf.float32), axis=1, keepdims=True) - 1
    values = {
        "expert": tf.where(valid[..., tf.newaxis], assignment.expert, -1),
        "kept": assignment.kept,
        "gate": assignment.weight,
        "rank": (rank / tf.maximum(last, 1.0))[..., tf.newaxis],
    }
    return {
        f"token_{what}_{name}": part
        for what, value in values.items()
        for name, part in tokens.split(value, layout).items()
    }


def loss_names(modalities: Sequence[str]) -> list[str]:
    """Returns the names of all losses that `observe` reports where every modality is present."""
    entropies = [f"{kind}_entropy_{m}" for m in modalities for kind in ("local", "global")]
    mutual = ["mutual_information"] if len(modalities) > 1 else []
    return ["importance", "load", "z", *entropies, *mutual]


def _mean(sums, name):
    return tf.math.divide_no_nan(sums[name], sums["tokens"])


def _masses(gates, valid, *, num_choices, noise_std):
    return {
        "importance": balance.importance(gates.clean_probabilities, valid),
        "load": balance.load(
            gates.logits, gates.noisy_logits, valid, num_choices=num_choices, noise_std=noise_std
        ),
    }


def _sums_of_all(gates, valid):
    flags = tf.cast(valid, tf.float32)
    return {
        "z": tf.reduce_sum(balance.squared_log_partition(gates.logits) * flags),
        "tokens": tf.reduce_sum(flags),
    }


def _sums_of_modality(probabilities, experts, kept, valid, *, num_choices):
    flags = tf.cast(valid, tf.float32)
    entropies = balance.merged_entropy(probabilities, num_choices=num_choices)
    flat_kept = tf.reshape(tf.cast(kept, tf.float32), [-1])
    return {
        "probabilities": tf.reduce_sum(probabilities * flags[..., tf.newaxis], axis=[0, 1]),
        "entropy": tf.reduce_sum(entropies * flags),
        "max_gate": tf.reduce_sum(tf.reduce_max(probabilities, axis=-1) * flags),
        "tokens": tf.reduce_sum(flags),
        "kept": tf.reduce_sum(flat_kept),
        "kept_by_expert": tf.math.unsorted_segment_sum(
            flat_kept, tf.reshape(experts, [-1]), probabilities.shape[-1]
        ),
    }


def _over_replicas(local):
    """Sums a nested dict of <float32>[] and <float32>[E] over replicas, as one vector."""
    return packing.unpacked(replicas.current().sum(packing.packed(local)), local)
