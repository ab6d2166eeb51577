"""Tokens through the experts' buffers and back, in the two forms of `dispatch`."""

import tensorflow as tf

from limoe_tf import tokens
from limoe_tf.moe import dispatch


def through_packed(experts, joined, layout, seats, *, training):
    """Returns the experts' weighted outputs, as streams.

    Args:
      experts: `experts.Experts`.
      joined: <float>[G, S, D].
      layout: `tokens.Layout` of the groups.
      seats: `assign.Assignment` of <..>[G, S, K].
      training: whether gradients will be asked for.

    Returns:
      dict of <float>[B, N, D].
    """
    width, choices = joined.shape[-1], seats.weight.shape[-1]
    routes = dispatch.packed_routes(seats, num_experts=experts.num_experts)
    rows = dispatch.dispatch(tf.reshape(joined, [-1, width]), routes)
    outputs = experts(rows, sizes=routes.sizes, training=training)
    combined = dispatch.combine(outputs, tf.reshape(seats.weight, [-1, choices]), routes)
    return tokens.split(tf.reshape(combined, tf.shape(joined)), layout)


def through_padded(experts, streams, layout, seats, *, num_slots, training):
    """As `through_packed`, without a joined copy of all tokens.

    Args:
      experts: `experts.Experts`.
      streams: dict of <float>[B, N, D].
      layout: `tokens.Layout` of the groups.
      seats: `assign.Assignment` of <..>[G, S, K].
      num_slots: C, of an expert for one group; None for as many as a group has tokens.
      training: whether gradients will be asked for.

    Returns:
      dict of <float>[B, N, D].
    """
    num_slots = sum(layout.lengths.values()) if num_slots is None else num_slots
    with tf.name_scope("seats"):
        routes = dispatch.padded_routes(
            seats, num_experts=experts.num_experts, num_slots=num_slots, layout=layout
        )
        weight = dispatch.in_table(seats.weight, layout)
    tables = [tokens.by_position(stream) for stream in streams.values()]
    rows = dispatch.dispatch_streams(tables, routes)
    width = rows.shape[-1]
    buffers = tf.reshape(rows, [experts.num_experts, -1, width])
    outputs = tf.reshape(experts(buffers, training=training), [-1, width])
    lengths = [tokens.sizes(table)[0] for table in tables]
    combined = dispatch.combine_streams(outputs, weight, routes, lengths=lengths)
    return {
        name: tokens.from_positions(table, layout.shapes[name])
        for name, table in zip(streams, combined)
    }
