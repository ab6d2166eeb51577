"""The collectives of replicas: of a strategy, or of one TPU program.

The methods are those of `replicas.ManyReplicas`; `sum_in` sums within groups of replicas.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.tpu.ops import tpu_ops

from limoe_tf.custom_gradient import custom_gradient, leave_to_graph


class StrategyCollectives:
    """Collectives of the replicas of a `tf.distribute` strategy.

    Such a strategy has no groups of replicas: what a group exchanges goes to all replicas.

    Args:
      context: the `tf.distribute.ReplicaContext`.
    """

    def __init__(self, context: tf.distribute.ReplicaContext):
        self._context = context
        self._index, self._count = context.replica_id_in_sync_group, context.num_replicas_in_sync

    def sum(self, value: Any) -> Any:
        # The strategy's own gradients would keep the graph alive for ever, see `custom_gradient`.
        @custom_gradient
        def total(*parts):
            sums = self._context.all_reduce(tf.distribute.ReduceOp.SUM, list(parts))
            return leave_to_graph(sums), lambda *upstream: self.sum(list(upstream))

        return tf.nest.pack_sequence_as(value, tf.nest.flatten(total(*tf.nest.flatten(value))))

    def gather(self, value: tf.Tensor) -> tf.Tensor:
        @custom_gradient
        def concatenated(own):
            def gradient(upstream):
                everyone = self.sum(upstream)
                # So that all replicas run their collectives in the same order.
                with tf.control_dependencies([everyone]):
                    first, size = self._place(own)
                return everyone[first : first + size]

            return leave_to_graph(self._context.all_gather(own, axis=0)), gradient

        rows = value.shape[0]
        rows = None if rows is None else rows * self._count
        return tf.ensure_shape(concatenated(value), [rows, *value.shape[1:]])

    def _place(self, own):
        """Returns the index of this replica's first row among those of all, and its rows."""
        size = own.shape[0]
        if size is not None:  # Static sizes are the same everywhere.
            return size * self._index, size
        size = tf.shape(own)[0]
        return tf.reduce_sum(self.gather(size[tf.newaxis])[: self._index]), size

    def sum_in(self, groups: Sequence[Sequence[int]], value: tf.Tensor) -> tf.Tensor:
        group = {number: place for place, group in enumerate(groups) for number in group}
        own = self._own(group)
        mask = tf.one_hot(own, len(groups), dtype=value.dtype)
        return self.sum(tf.tensordot(mask, value, axes=0))[own]

    def all_to_all(
        self, value: tf.Tensor, groups: Sequence[Sequence[int]], split_axis: int, concat_axis: int
    ) -> tf.Tensor:
        size = len(groups[0])
        members = {number: group for group in groups for number in group}
        everything = self.gather(value[tf.newaxis])
        # Slices, because the gradient of `tf.gather` would be one that cannot be summed.
        senders = tf.unstack(self._own(members), size)
        own = self._own({number: group.index(number) for number, group in members.items()})
        pieces = [tf.stack(tf.split(everything[sender], size, split_axis)) for sender in senders]
        return tf.concat([piece[own] for piece in pieces], axis=concat_axis)

    def _own(self, values):
        """Returns this replica's entry of a dict by number of replica."""
        return tf.constant([values[number] for number in range(self._count)])[self._index]


class TpuCollectives:
    """Collectives of the replicas of one TPU program.

    Args:
      index: <int32>[] number of this replica.
      count: how many there are.
    """

    def __init__(self, index: tf.Tensor, count: int):
        self._index, self._count = index, count

    def sum(self, value: Any) -> Any:
        groups = [list(range(self._count))]
        return tf.nest.map_structure(lambda part: self.sum_in(groups, part), value)

    def gather(self, value: tf.Tensor) -> tf.Tensor:
        # TensorFlow has no all-gather for TPUs: its own strategy also sums zero-padded rows.
        place = tf.one_hot(self._index, self._count, dtype=value.dtype)
        placed = tf.reshape(place, [self._count] + [1] * value.shape.rank) * value
        return tf.reshape(self.sum(placed), [self._count * value.shape[0], *value.shape[1:]])

    def sum_in(self, groups: Sequence[Sequence[int]], value: tf.Tensor) -> tf.Tensor:
        return tpu_ops.cross_replica_sum(value, groups) if len(groups[0]) > 1 else value

    def all_to_all(
        self, value: tf.Tensor, groups: Sequence[Sequence[int]], split_axis: int, concat_axis: int
    ) -> tf.Tensor:
        return tpu_ops.all_to_all(
            value,
            split_dimension=split_axis,
            concat_dimension=concat_axis,
            split_count=len(groups[0]),
            group_assignment=groups,
        )
