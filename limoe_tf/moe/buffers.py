"""Dispatch, experts and combine in a row, for tokens in groups or in streams."""

import functools
from collections.abc import Mapping

import tensorflow as tf

from limoe_tf import tokens
from limoe_tf.moe import dispatch, rounds
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
    num_slots: int | tf.Tensor | None,
    training: bool,
) -> dict[str, tf.Tensor]:
    """As `apply_to_joined`, for experts that need padding, without a joined copy of all tokens.

    Args:
      experts: `experts.Experts`.
      streams: dict of <float>[B, N, D].
      layout: `tokens.Layout` of the groups.
      assignment: `assign.Assignment` of <..>[G, S, K]; of one group if slots have no limit.
      num_slots: C, of an expert for one group; None for no limit: in rounds, see `rounds`.
      training: whether the experts' weights are trained.

    Returns:
      dict of <float>[B, N, D].
    """
    tables = [tokens.by_position(stream) for stream in streams.values()]
    with tf.name_scope("assign"):
        weight = dispatch.in_table(assignment.weight, layout)
    once = functools.partial(_once, experts, layout=layout, training=training)
    if num_slots is None:
        combined = _in_rounds(once, experts, tables, weight, assignment, training=training)
    else:
        combined = once(
            tables, weight, experts.tensors(), assignment=assignment, num_slots=num_slots
        )
    # Otherwise each consumer of the residual stream would sum all updates so far again.
    return {
        name: materialized(tokens.from_positions(table, layout.shapes[name]))
        for name, table in zip(streams, combined)
    }


def _once(experts, tables, weight, tensors, *, layout, assignment, num_slots, training):
    """Returns what one filling of the buffers adds to each table of tokens."""
    with tf.name_scope("assign"):
        routes = dispatch.padded_routes(
            assignment, num_experts=experts.num_experts, num_slots=num_slots, layout=layout
        )
    rows = dispatch.dispatch_streams(tables, routes)
    width = rows.shape[-1]
    with tf.name_scope(experts.name):
        buffers = tf.reshape(rows, [experts.num_experts, -1, width])
        outputs = tf.reshape(experts.padded(buffers, tensors, training=training), [-1, width])
    lengths = [tokens.sizes(table)[0] for table in tables]
    return dispatch.combine_streams(outputs, weight, routes, lengths=lengths)


def _in_rounds(once, experts, tables, weight, assignment, *, training):
    """Returns the sums of `once` over the rounds in which every choice is computed.

    Where weights are trained, the first round stores what its gradient needs, as a layer with a
    limit of slots does: with an even routing there is no other round. All else is computed again.
    """
    num_tokens, num_choices = tokens.sizes(assignment.expert)[1:]
    num_slots = rounds.num_slots(
        num_tokens, num_experts=experts.num_experts, num_choices=num_choices
    )
    tensors = experts.tensors()
    if isinstance(num_tokens, int) and num_slots >= num_tokens:
        return once(tables, weight, tensors, assignment=assignment, num_slots=num_slots)

    def compute(number, *arguments):
        # Frozen weights are no arguments, so that no gradient is computed for them.
        *tables, weight = arguments[: len(arguments) - len(tensors)] if training else arguments
        return once(
            tables,
            weight,
            arguments[-len(tensors) :] if training else tensors,
            assignment=rounds.of_round(assignment, number, num_slots),
            num_slots=num_slots,
        )

    arguments = [*tables, weight, *tensors] if training else [*tables, weight]
    first = compute(0, *arguments) if training else None
    with tf.name_scope("assign"):
        stop = rounds.num_rounds(assignment, num_slots)
    rest = rounds.sum_over_rounds(
        compute, arguments, like=tables, start=1 if training else 0, stop=stop
    )
    return [a + b for a, b in zip(first, rest)] if training else rest
