"""Dispatches tokens to the experts' buffers, and combines the experts' outputs.

Two forms of buffer. `padded`: every expert has C slots of every group, `[E, G * C, D]`, the static
form that XLA and a mesh need. `packed`: only the rows in use, experts one after another, `[R, D]`
with a row count for each expert; no row is empty, but shapes depend on values.

Every move is a gather, forward and backward: a slot has at most one token and a choice at most one
slot, so no scatter-add is needed.

Axis letters: G groups, S tokens in a group, E experts, K choices per token, C slots, D width,
R rows of the buffers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from limoe_tf import tokens as token_order
from limoe_tf.custom_gradient import custom_gradient
from limoe_tf.moe.assign import Assignment
from limoe_tf.xla import materialized


class Routes(NamedTuple):
    """The rows of the experts' buffers: which choice each holds, and which row each choice has.

    Attributes:
      source: <int32>[R] choice (token * K + k) that a row holds; 0 for an empty row.
      used: <bool>[R] False for an empty row.
      row: <int32>[G * S, K] row of a choice; 0 if it was dropped.
      kept: <bool>[G * S, K] False if it was dropped.
      sizes: <int32>[E] rows of each expert in the packed form, None in the padded form.
    """

    source: tf.Tensor
    used: tf.Tensor
    row: tf.Tensor
    kept: tf.Tensor
    sizes: tf.Tensor | None


def padded_routes(
    assignment: Assignment,
    *,
    num_experts: int,
    num_slots: int | tf.Tensor,
    layout: token_order.Layout | None = None,
) -> Routes:
    """Returns Routes to buffers `[E, G * C, D]`, flattened to R = E * G * C rows.

    Args:
      assignment: `assign.Assignment`.
      num_experts: E.
      num_slots: C.
      layout: `tokens.Layout` of the groups if the tokens are the streams `tokens.by_position`, one
        after another; None if they are in the order of the groups.
    """
    groups, _, choices = tf.unstack(tf.shape(assignment.expert))
    group = tf.range(groups)[:, tf.newaxis, tf.newaxis]
    row = (assignment.expert * groups + group) * num_slots + assignment.slot
    num_rows = num_experts * _static(assignment.expert.shape[0], groups) * num_slots
    kept = assignment.kept
    if layout is not None:
        row, kept = in_table(row, layout), in_table(kept, layout)
    return _routes(row, kept, num_rows, None, choices)


def in_table(values: tf.Tensor, layout: token_order.Layout) -> tf.Tensor:
    """Returns [G, S, K] of the groups' tokens in the order of the streams `tokens.by_position`."""
    streams = token_order.split(values, layout).values()
    return tf.concat([token_order.by_position(stream) for stream in streams], axis=0)


def packed_routes(assignment: Assignment, *, num_experts: int) -> Routes:
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
    return _routes(row, assignment.kept, num_rows, sizes, choices)


def _static(known, size):
    return size if known is None else known


def _routes(row, kept, num_rows, sizes, choices):
    flat_row, flat_kept = tf.reshape(row, [-1]), tf.reshape(kept, [-1])
    # One row too many collects the dropped choices and is cut off.
    target = tf.where(flat_kept, flat_row, num_rows)[:, tf.newaxis]
    choice = tf.range(tf.shape(flat_row)[0])
    source = tf.tensor_scatter_nd_update(tf.fill([num_rows + 1], -1), target, choice)[:num_rows]
    row = tf.where(kept, row, 0)
    return Routes(
        source=tf.maximum(source, 0),
        used=source >= 0,
        row=tf.reshape(row, [-1, choices]),
        kept=tf.reshape(kept, [-1, choices]),
        sizes=sizes,
    )


def dispatch(tokens: tf.Tensor, routes: Routes) -> tf.Tensor:
    """Copies tokens into the rows of the experts' buffers.

    Args:
      tokens: <float>[G * S, D].
      routes: Routes.

    Returns:
      <float>[R, D]. Empty rows have some token's values: no choice reads them, and no gradient
      flows through them.
    """
    return dispatch_streams([tokens], routes)


def dispatch_streams(streams: Sequence[tf.Tensor], routes: Routes) -> tf.Tensor:
    """As `dispatch`, of tokens in several pieces.

    Args:
      streams: list of <float>[T, D], together the G * S tokens.
      routes: Routes.
    """
    token_of_row = routes.source // routes.row.shape[1]

    @custom_gradient
    def move(*pieces):
        def gradient(upstream):
            with tf.name_scope("dispatch"):
                kept = tf.cast(routes.kept, upstream.dtype)
                lengths = _lengths(pieces)
                return _weighted(_choices(upstream, routes, lengths), kept, lengths)

        return tf.gather(tf.concat(pieces, axis=0), token_of_row), gradient

    with tf.name_scope("dispatch"):
        return move(*streams)


def combine(outputs: tf.Tensor, weight: tf.Tensor, routes: Routes) -> tf.Tensor:
    """Returns each token's sum of its experts' outputs, weighted; a dropped choice adds zero.

    Args:
      outputs: <float>[R, D].
      weight: <float32>[G * S, K] weight of each choice.
      routes: Routes.

    Returns:
      <float>[G * S, D].
    """
    return combine_streams(outputs, weight, routes, lengths=_lengths([weight]))[0]


def combine_streams(
    outputs: tf.Tensor, weight: tf.Tensor, routes: Routes, *, lengths: Sequence
) -> list[tf.Tensor]:
    """As `combine`, for tokens in several pieces.

    Args:
      outputs: <float>[R, D].
      weight: <float32>[G * S, K] weight of each choice.
      routes: Routes.
      lengths: list of the tokens T of each piece.

    Returns:
      list of <float>[T, D].
    """

    @custom_gradient
    def move(values, weights):
        kept_weights = tf.where(routes.kept, weights, 0)
        rows = tf.nest.map_structure(materialized, _choices(values, routes, lengths))

        def gradient(*upstream):
            with tf.name_scope("combine"):
                return _gradients_of_combine(upstream, rows, kept_weights, routes, lengths)

        return _weighted(rows, kept_weights, lengths), gradient

    with tf.name_scope("combine"):
        return move(outputs, tf.cast(weight, outputs.dtype))


def _gradients_of_combine(upstream, rows, kept_weights, routes, lengths):
    to_weights = [
        tf.stack([tf.reduce_sum(row * part, axis=-1) for row in choices], axis=-1)
        for choices, part in zip(rows, upstream)
    ]
    to_weights = tf.where(routes.kept, tf.concat(to_weights, axis=0), 0)
    choices = routes.row.shape[1]
    if choices == 1:  # Weighting the tokens is cheaper than fetching a weight for each row.
        weights = tf.split(kept_weights, lengths)
        upstream = [part * weight for part, weight in zip(upstream, weights)]
    # Empty rows fetch a token of zeros: zeroing them afterwards would be another pass over memory.
    zeros = tf.zeros_like(upstream[0][:1])
    token_of_row = tf.where(routes.used, routes.source // choices, sum(lengths))
    to_rows = tf.gather(tf.concat([*upstream, zeros], axis=0), token_of_row)
    if choices > 1:
        row_weight = tf.gather(tf.reshape(kept_weights, [-1]), routes.source)
        to_rows *= row_weight[:, tf.newaxis]
    return to_rows, to_weights


def _lengths(pieces):
    return [_static(piece.shape[0], tf.shape(piece)[0]) for piece in pieces]


def _choices(rows, routes, lengths):
    """Returns the rows of the tokens' choices: for each piece a list of K tensors [T, D]."""
    return [
        [tf.gather(rows, row[:, k]) for k in range(routes.row.shape[1])]
        for row in tf.split(routes.row, lengths)
    ]


def _weighted(rows, weights, lengths):
    """Returns for each token the weighted sum of the rows of its choices: list of [T, D]."""
    return [
        tf.add_n([row * weight[:, k, tf.newaxis] for k, row in enumerate(choices)])
        for choices, weight in zip(rows, tf.split(weights, lengths))
    ]
