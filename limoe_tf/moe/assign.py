"""From gate probabilities to seats: which token sits in which slot of which expert.

Axis letters: G groups, S tokens in a group, E experts, K choices per token, C slots of an expert.
"""

import math
from typing import NamedTuple

import tensorflow as tf

from limoe_tf import checks
from limoe_tf.moe.noise import uniform
from limoe_tf.tokens import sizes

ORDERS = ("batch_priority", "first_in_images_first", "first_in_text_first", "random")


class Assignment(NamedTuple):
    """Who sits where: integers and weights, no one-hot tables.

    Attributes:
      expert: <int32>[G, S, K] chosen experts, surest first.
      slot: <int32>[G, S, K] seat at that expert; meaningless where `kept` is False.
      weight: <float32>[G, S, K] gate probability of the choice; not renormalised.
      kept: <bool>[G, S, K] False where the expert was full or the token is padding.
    """

    expert: tf.Tensor
    slot: tf.Tensor
    weight: tf.Tensor
    kept: tf.Tensor


def capacity(num_tokens, *, num_experts, num_choices, capacity_factor, multiple_of=4):
    """Returns the slots C of one expert for one group: ceil(S K factor / E), rounded up.

    Args:
      num_tokens: S, tokens in a group: an int, or <int32>[] where the batch size is not known.
      num_experts: E.
      num_choices: K.
      capacity_factor: room in proportion to an even share; 1.0 is exactly an even share.
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


def priority(order, probabilities, layout, *, num_choices, seed=None):
    """Returns the priority of each token: experts seat tokens from the highest to the lowest.

    Args:
      order: one of `ORDERS`. `batch_priority` is the sum of a token's K highest gates, for K = 1
        the maximum; the two `first_in` orders go by position, with one modality before the rest.
      probabilities: <float32>[G, S, E].
      layout: `tokens.Layout` of the group.
      num_choices: K.
      seed: <int32>[2] of the draw; needed by `random`.

    Returns:
      <float32>[G, S].

    Reference: https://arxiv.org/abs/2106.05974 (batch priority routing);
      https://arxiv.org/abs/2206.02770, section 4.2 (the other orders).
    """
    if order == "batch_priority":
        return tf.reduce_sum(tf.math.top_k(probabilities, num_choices).values, axis=-1)
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


def assign(probabilities, *, valid, priority, num_choices, num_slots):
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
    weight, expert = tf.math.top_k(probabilities, num_choices)
    padding = tf.logical_not(valid)[:, :, tf.newaxis]
    # Padding is seated at an expert that does not exist, so that it stands in nobody's way.
    seated_at = tf.where(padding, num_experts, expert)
    by_priority = tf.argsort(priority, direction="DESCENDING", stable=True)
    line = tf.gather(seated_at, by_priority, batch_dims=1)
    line = tf.transpose(line, [0, 2, 1])  # [G, K, S]: all first choices, then all second choices
    place_in_line = _rank_among_equals(_flat(line), num_experts)
    place_in_line = tf.transpose(tf.reshape(place_in_line, tf.shape(line)), [0, 2, 1])
    slot = tf.gather(place_in_line, tf.argsort(by_priority, stable=True), batch_dims=1)
    kept = tf.logical_not(padding)
    if num_slots is not None:
        kept = tf.logical_and(kept, slot < num_slots)
    return Assignment(expert, slot, weight, tf.broadcast_to(kept, tf.shape(expert)))


def _flat(line):
    """Returns [G, K, S] as [G, K * S], with static sizes where they are known."""
    groups, choices, tokens = line.shape
    size = -1 if tokens is None else choices * tokens
    return tf.reshape(line, [tf.shape(line)[0] if groups is None else groups, size])


def _rank_among_equals(experts, num_experts):
    """Returns for each entry of <int32>[G, n] how many equal entries stand before it."""
    order = tf.argsort(experts, stable=True)
    grouped = tf.gather(experts, order, batch_dims=1)
    names = tf.broadcast_to(tf.range(num_experts + 1), [tf.shape(experts)[0], num_experts + 1])
    starts = tf.searchsorted(grouped, names, side="left")
    rank = tf.range(tf.shape(experts)[1]) - tf.gather(starts, grouped, batch_dims=1)
    return tf.gather(rank, tf.argsort(order, stable=True), batch_dims=1)
