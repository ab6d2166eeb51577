"""Dispatch, experts and combine in a row, for tokens in groups or in streams."""

from collections.abc import Mapping

import tensorflow as tf

from limoe_tf import tokens
from limoe_tf.moe import dispatch
from limoe_tf.moe.assign import Assignment
from limoe_tf.moe.experts import Experts
from limoe_tf.xla import materialized


def apply_to_joined(
    experts: Experts,
    joined: tf.Tensor,
    layout: tokens.Layout,
    assignment: Assignment,
    *,
    num_slots: int | tf.Tensor | None,
    training: bool,
) -> dict[str, tf.Tensor]:
    """Returns the experts' weighted outputs, as streams.

    Args:
      experts: `experts.Experts` that need no padding.
      joined: <float>[G, S, D].
      layout: `tokens.Layout` of the groups.
      assignment: `assign.Assignment` of <..>[G, S, K].
      num_slots: C, of an expert for one group; None for no limit.
      training: whether gradients are computed.

    Returns:
      dict of <float>[B, N, D].
    """
    width, choices = joined.shape[-1], assignment.weight.shape[-1]
    flat = tf.reshape(joined, [-1, width])
    if experts.packs(_rows_of_an_expert(joined, num_slots) if training else None):
        routes = dispatch.packed_routes(assignment, num_experts=experts.num_experts)
        rows = dispatch.dispatch(flat, routes)
        outputs = experts(rows, sizes=routes.sizes, training=training)
    else:
        routes = dispatch.padded_routes(
            assignment, num_experts=experts.num_experts, num_slots=num_slots
        )
        outputs = _padded(experts, dispatch.dispatch(flat, routes), training)
    combined = dispatch.combine(outputs, tf.reshape(assignment.weight, [-1, choices]), routes)
    return tokens.split(tf.reshape(combined, tf.shape(joined)), layout)


def _rows_of_an_expert(joined, num_slots):
    """Returns the rows of an expert in the padded form, or None if that number is not static."""
    sizes = (joined.shape[0], num_slots)
    return sizes[0] * sizes[1] if all(isinstance(size, int) for size in sizes) else None


def _padded(experts, rows, training):
    width = rows.shape[-1]
    buffers = tf.reshape(rows, [experts.num_experts, -1, width])
    return tf.reshape(experts(buffers, training=training), [-1, width])


def apply_to_streams(
    experts: Experts,
    streams: Mapping[str, tf.Tensor],
    layout: tokens.Layout,
    assignment: Assignment,
    *,
    num_slots: int | None,
    training: bool,
) -> dict[str, tf.Tensor]:
    """As `apply_to_joined`, for experts that need padding, without a joined copy of all tokens.

    Args:
      experts: `experts.Experts`.
      streams: dict of <float>[B, N, D].
      layout: `tokens.Layout` of the groups.
      assignment: `assign.Assignment` of <..>[G, S, K].
      num_slots: C, of an expert for one group; None for as many as a group has tokens.
      training: whether gradients are computed.

    Returns:
      dict of <float>[B, N, D].
    """
    num_slots = sum(layout.lengths.values()) if num_slots is None else num_slots
    with tf.name_scope("assign"):
        routes = dispatch.padded_routes(
            assignment, num_experts=experts.num_experts, num_slots=num_slots, layout=layout
        )
        weight = dispatch.in_table(assignment.weight, layout)
    tables = [tokens.by_position(stream) for stream in streams.values()]
    outputs = _padded(experts, dispatch.dispatch_streams(tables, routes), training)
    lengths = [tokens.sizes(table)[0] for table in tables]
    combined = dispatch.combine_streams(outputs, weight, routes, lengths=lengths)
    # Otherwise each consumer of the residual stream would sum all updates so far again.
    return {
        name: materialized(tokens.from_positions(table, layout.shapes[name]))
        for name, table in zip(streams, combined)
    }
