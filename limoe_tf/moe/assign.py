"""From gate probabilities to assignments: which token gets which slot of which expert.

Axis letters: G groups, S tokens in a group, E experts, K choices per token, C slots of an expert.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.mesh.noise import uniform
from limoe_tf.moe.top_k import top_k
from limoe_tf.tokens import Layout, sizes

ORDERS = (
    "batch_priority", "first_in_images_first", "first_in_text_first", "random", "largest_gate",
)  # fmt: skip


class Assignment(NamedTuple):
    """The slots of all tokens: integers and weights, not one-hot dispatch masks.

    Attributes:
      expert: <int32>[G, S, K] chosen experts, highest gate first.
      slot: <int32>[G, S, K] position in that expert's buffer; meaningless where `kept` is False.
      weight: <float32>[G, S, K] gate probability of the choice; not renormalised.
      kept: <bool>[G, S, K] False where the expert was full or the token is padding.
    """

    expert: tf.Tensor
    slot: tf.Tensor
    weight: tf.Tensor
    kept: tf.Tensor


def capacity(
    num_tokens: int | tf.Tensor,
    *,
    num_experts: int,
    num_choices: int,
    capacity_factor: float,
    multiple_of: int = 4,
) -> int | tf.Tensor:
    """Returns the slots C of one expert for one group: ceil(S K factor / E), rounded up.

    Args:
      num_tokens: S, tokens in a group: an int, or <int32>[] where the batch size is not known.
      num_experts: E.
      num_choices: K.
      capacity_factor: C in proportion to an even share of the tokens; 1.0 is exactly that share.
      multiple_of: C is rounded up to a multiple of this.

    Returns:
      int or <int32>[], never more than S: no token takes two slots of one expert.

    Reference: https://arxiv.org/abs/2106.05974, section 2.3.
    """
    share = num_choices * capacity_factor / num_experts
    # Without the tolerance, 2000 * 1.05 / 30 = 70.00000000000001 would be 71 slots.
    if isinstance(num_tokens, int):
        slots = math.ceil(math.ceil(num_tokens * share - 1e-6) / multiple_of) * multiple_of
        return max(1, min(slots, num_tokens))
    even = tf.math.ceil(tf.cast(num_tokens, tf.float64) * share - 1e-6)
    slots = tf.cast(tf.math.ceil(even / multiple_of), tf.int32) * multiple_of
    return tf.maximum(1, tf.minimum(slots, num_tokens))


def priority(
    order: str,
    probabilities: tf.Tensor,
    layout: Layout,
    *,
    num_choices: int,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the priority of each token: slots are given from the highest to the lowest.

    Args:
      order: one of `ORDERS`. `batch_priority` is the sum of a token's K highest gates, and
        `largest_gate`, V-MoE's rule, the highest alone: the same for K = 1. The two `first_in`
        orders go by position, with one modality before the rest.
      probabilities: <float32>[G, S, E].
      layout: `tokens.Layout` of the group.
      num_choices: K.
      seed: <int32>[2] of the random numbers; needed by `random`.

    Returns:
      <float32>[G, S].

    Reference: https://arxiv.org/abs/2106.05974 (batch priority routing);
      https://arxiv.org/abs/2206.02770, section 4.2 (the other orders).
    """
    if order == "batch_priority":
        return tf.reduce_sum(top_k(probabilities, num_choices)[0], axis=-1)
    if order == "largest_gate":
        return tf.reduce_max(probabilities, axis=-1)
    shape = sizes(probabilities)[:2]
    if order == "random":
        return uniform([*shape, 1], seed)[..., 0]
    first = {"first_in_images_first": "image", "first_in_text_first": "text"}[order]
    position = -tf.cast(tf.range(shape[1]), tf.float32)
    ahead = [
        tf.fill([length], tf.cast(shape[1] if name == first else 0, tf.float32))
        for name, length in layout.lengths.items()
    ]
    return tf.broadcast_to(position + tf.concat(ahead, axis=0), shape)


def assign(
    probabilities: tf.Tensor,
    *,
    valid: tf.Tensor,
    priority: tf.Tensor,
    num_choices: int,
    num_slots: int | tf.Tensor | None,
) -> Assignment:
    """Gives each valid token a slot with up to `num_choices` experts, highest priority first.

    First choices of all tokens are placed before any second choice. A token whose expert is full is
    dropped for that choice; padding never takes a slot. Equal priorities go by position.

    Args:
      probabilities: <float32>[G, S, E] gate probabilities; each row sums to 1.
      valid: <bool>[G, S] False on padding.
      priority: <float32>[G, S] higher is earlier.
      num_choices: K, experts per token; 1 <= K <= E.
      num_slots: C, tokens one expert accepts from one group; None for no limit.

    Returns:
      Assignment. An expert's kept slots are 0, 1, 2 ... without a gap.

    Raises:
      ValueError: if K is not in 1..E.

    Reference: https://arxiv.org/abs/2106.05974, algorithm 1 and batch priority routing.
    """
    num_experts = probabilities.shape[-1]
    checks.integer_in("num_choices", num_choices, 1, num_experts)
    weight, expert = top_k(probabilities, num_choices)
    padding = tf.logical_not(valid)[:, :, tf.newaxis]
    # Padding goes to an expert that does not exist, so that it takes no slot of another token.
    routed_to = tf.where(padding, num_experts, expert)
    slot = _queue_positions(routed_to, priority, num_experts)
    kept = tf.logical_not(padding)
    if num_slots is not None:
        kept = tf.logical_and(kept, slot < num_slots)
    return Assignment(expert, slot, weight, tf.broadcast_to(kept, tf.shape(expert)))


def normalized(assignment: Assignment) -> Assignment:
    """Returns the assignment with weights of kept choices that sum to 1 for each token.

    With one choice each weight is 1, and gives the router no gradient.

    Args:
      assignment: Assignment.

    Reference: https://arxiv.org/abs/2212.05055 (weights normalized after routing).
    """
    weight = tf.where(assignment.kept, assignment.weight, 0)
    total = tf.reduce_sum(weight, axis=-1, keepdims=True)
    return assignment._replace(weight=tf.math.divide_no_nan(weight, total))


def _queue_positions(routed_to, priority, num_experts):
    """Returns how many choices precede a choice at its expert: <int32>[G, S, K].

    Only by sorting: for each number that a gather fetches, a TPU reads a tile of 1024.

    Args:
      routed_to: <int32>[G, S, K] in 0..E.
      priority: <float32>[G, S].
      num_experts: E.
    """
    tokens, choices = tf.unstack(tf.shape(routed_to))[1:]
    # The second sort turns an order into ranks.
    by_priority = tf.argsort(tf.argsort(priority, direction="DESCENDING", stable=True))
    # All first choices, then all second choices.
    order = by_priority[:, :, tf.newaxis] + tokens * tf.range(choices)
    keys = tf.reshape(routed_to * (tokens * choices) + order, [tf.shape(order)[0], -1])
    rank = tf.reshape(tf.argsort(tf.argsort(keys)), tf.shape(order))
    is_at = tf.cast(routed_to[..., tf.newaxis] == tf.range(num_experts + 1), tf.int32)
    starts = tf.cumsum(tf.reduce_sum(is_at, axis=[1, 2], keepdims=True), axis=-1, exclusive=True)
    return rank - tf.reduce_sum(is_at * starts, axis=-1)
