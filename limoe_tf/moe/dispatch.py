"""Carries tokens to the experts' buffers and the experts' outputs back.

Two forms of buffer. `padded`: every expert has C slots of every group, `[E, G * C, D]`, the static
form that XLA and a mesh need. `packed`: only the rows in use, experts one after another, `[R, D]`
with a row count for each expert; it wastes nothing where shapes may depend on values.

Every move is a gather, forward and backward: a slot has at most one token and a choice at most one
slot, so nothing ever has to be scattered and added.

Axis letters: G groups, S tokens in a group, E experts, K choices per token, C slots, D width,
R rows of the buffers.
"""

from typing import NamedTuple

import tensorflow as tf


class Routes(NamedTuple):
    """Where each row comes from and each choice goes to.

    Attributes:
      source: <int32>[R] choice (token * K + k) that a row holds; 0 for an empty row.
      used: <bool>[R] False for an empty row.
      place: <int32>[G * S, K] row of a choice; 0 if it was dropped.
      kept: <bool>[G * S, K] False if it was dropped.
      sizes: <int32>[E] rows of each expert in the packed form, None in the padded form.
    """

    source: tf.Tensor
    used: tf.Tensor
    place: tf.Tensor
    kept: tf.Tensor
    sizes: tf.Tensor


def padded_routes(assignment, *, num_experts, num_slots):
    """Returns Routes to buffers `[E, G * C, D]`, flattened to R = E * G * C rows.

    Args:
      assignment: `assign.Assignment`.
      num_experts: E.
      num_slots: C.
    """
    groups, tokens, choices = tf.unstack(tf.shape(assignment.expert))
    group = tf.range(groups)[:, tf.newaxis, tf.newaxis]
    row = (assignment.expert * groups + group) * num_slots + assignment.slot
    num_rows = num_experts * _static(assignment.expert.shape[0], groups) * num_slots
    return _routes(row, assignment.kept, num_rows, None, tokens, choices)


def packed_routes(assignment, *, num_experts):
    """Returns Routes to R = G * S * K rows: those of expert 0, of expert 1 ..., then empty rows.

    Args:
      assignment: `assign.Assignment`.
      num_experts: E.
    """
    groups, tokens, choices = tf.unstack(tf.shape(assignment.expert))
    group = tf.range(groups)[:, tf.newaxis, tf.newaxis]
    cell = assignment.expert * groups + group  # expert by expert, group by group
    num_cells = num_experts * groups
    load = tf.math.unsorted_segment_sum(
        tf.reshape(tf.cast(assignment.kept, tf.int32), [-1]), tf.reshape(cell, [-1]), num_cells
    )
    row = tf.gather(tf.cumsum(load, exclusive=True), cell) + assignment.slot
    num_rows = 1
    for static, size in zip(assignment.expert.shape, (groups, tokens, choices)):
        num_rows = num_rows * _static(static, size)
    sizes = tf.reduce_sum(tf.reshape(load, [num_experts, -1]), axis=1)
    return _routes(row, assignment.kept, num_rows, sizes, tokens, choices)


def _static(known, size):
    return size if known is None else known


def _routes(row, kept, num_rows, sizes, tokens, choices):
    del tokens
    flat_row, flat_kept = tf.reshape(row, [-1]), tf.reshape(kept, [-1])
    # One row too many collects the dropped choices and is cut off.
    target = tf.where(flat_kept, flat_row, num_rows)[:, tf.newaxis]
    choice = tf.range(tf.shape(flat_row)[0])
    source = tf.tensor_scatter_nd_update(tf.fill([num_rows + 1], -1), target, choice)[:num_rows]
    place = tf.where(kept, row, 0)
    return Routes(
        source=tf.maximum(source, 0),
        used=source >= 0,
        place=tf.reshape(place, [-1, choices]),
        kept=tf.reshape(kept, [-1, choices]),
        sizes=sizes,
    )


def dispatch(tokens, routes):
    """Carries tokens into the experts' rows.

    Args:
      tokens: <float>[G * S, D].
      routes: Routes.

    Returns:
      <float>[R, D]. Empty rows hold some token's values: no choice reads them, and no gradient
      comes back through them.
    """
    choices = routes.place.shape[1]
    token_of_row = routes.source // choices

    @tf.custom_gradient
    def move(values):
        def gradient(upstream):
            return _sum_of_choices(upstream, routes, tf.cast(routes.kept, upstream.dtype))

        return tf.gather(values, token_of_row), gradient

    return move(tokens)


def combine(outputs, weight, routes):
    """Carries the experts' outputs back to the tokens, weighted; a dropped choice adds zero.

    Args:
      outputs: <float>[R, D].
      weight: <float32>[G * S, K] weight of each choice.
      routes: Routes.

    Returns:
      <float>[G * S, D].
    """
    choices = routes.place.shape[1]
    token_of_row = routes.source // choices

    @tf.custom_gradient
    def move(values, weights):
        kept_weights = tf.where(routes.kept, weights, 0)

        def gradient(upstream):
            row_weight = tf.gather(tf.reshape(kept_weights, [-1]), routes.source)
            row_weight = tf.where(routes.used, row_weight, 0)
            to_rows = tf.gather(upstream, token_of_row) * row_weight[:, tf.newaxis]
            # einsum would copy the gathered rows once more.
            to_weights = [
                tf.reduce_sum(tf.gather(values, routes.place[:, k]) * upstream, axis=-1)
                for k in range(choices)
            ]
            to_weights = tf.where(routes.kept, tf.stack(to_weights, axis=-1), 0)
            return to_rows, to_weights

        return _sum_of_choices(values, routes, kept_weights), gradient

    return move(outputs, tf.cast(weight, outputs.dtype))


def _sum_of_choices(rows, routes, weights):
    """Returns for each token the weighted sum of its choices' rows: [G * S, D]."""
    return tf.add_n([
        tf.gather(rows, routes.place[:, k]) * weights[:, k, tf.newaxis]
        for k in range(routes.place.shape[1])
    ])
