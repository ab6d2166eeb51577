"""Numbers that span the global batch: index, count, sum, mean and gather over replicas.

A loss on a replica is a value whose mean over replicas is the global loss. Each replica
differentiates its value divided by `count`; the sum of the replicas' gradients is then the gradient
of the global loss, because `sum` and `gather` pass gradients back by summing them over replicas.
"""

import contextlib
import threading

import tensorflow as tf
from tensorflow.python.tpu.ops import tpu_ops


class OneReplica:
    """The only replica there is: every operation is the identity."""

    index = 0
    count = 1
    mesh = None

    def sum(self, value):
        """Returns the sum of `value` over replicas; any shape and dtype, or a nest of such."""
        return value

    def mean(self, value):
        """Returns the mean of `value` over replicas; any shape, a float dtype."""
        return value

    def gather(self, value):
        """Returns the replicas' `value` [B, ...] joined along the first axis: [count * B, ...]."""
        return value

    def sum_over_data(self, value):
        """Returns the sum of `value`, or of a nest, over replicas that hold the same experts."""
        return value

    def sum_over_experts(self, value):
        """Returns the sum of `value` over replicas that together hold every expert once."""
        return value


class _ManyReplicas:
    """Replicas that share the experts as `mesh` says, or each hold all experts if it is None."""

    def __init__(self, index, count, mesh):
        self.index, self.count, self.mesh = index, count, mesh

    def mean(self, value):
        """As `OneReplica.mean`."""
        return self.sum(value) / self.count

    def sum_over_data(self, value):
        """As `OneReplica.sum_over_data`."""
        return self.sum(value) if self.mesh is None else self._sum_along("data", value)

    def sum_over_experts(self, value):
        """As `OneReplica.sum_over_experts`."""
        return value if self.mesh is None else self._sum_along("expert", value)

    def _sum_along(self, axis, value):
        groups = self.mesh.groups(axis)
        if len(groups[0]) == 1:
            return value
        return tf.nest.map_structure(lambda part: self._sum_in(groups, part), value)


class StrategyReplicas(_ManyReplicas):
    """The replicas of a `tf.distribute` strategy, seen from within `strategy.run`.

    Such a strategy knows no groups of replicas: what groups exchange goes to everyone.

    Args:
      context: the `tf.distribute.ReplicaContext`.
      mesh: `ExpertMesh` whose devices the replicas are; None if each holds all experts.
    """

    def __init__(self, context, mesh=None):
        super().__init__(context.replica_id_in_sync_group, context.num_replicas_in_sync, mesh)
        self._context = context

    def sum(self, value):
        """As `OneReplica.sum`."""
        return self._context.all_reduce(tf.distribute.ReduceOp.SUM, value)

    def gather(self, value):
        """As `OneReplica.gather`."""
        gathered = self._context.all_gather(value, axis=0)
        rows = value.shape[0]
        rows = None if rows is None else rows * self.count
        return tf.ensure_shape(gathered, [rows, *value.shape[1:]])

    def exchange(self, value, *, groups, split_axis, concat_axis):
        """As `TpuReplicas.exchange`."""
        size = len(groups[0])
        members = {number: group for group in groups for number in group}
        everything = self.gather(value[tf.newaxis])
        # Slices, because the gradient of `tf.gather` would be one that cannot be summed.
        senders = tf.unstack(_table(members, self.count)[self.index], size)
        place = {number: group.index(number) for number, group in members.items()}
        own = _table(place, self.count)[self.index]
        pieces = [tf.stack(tf.split(everything[sender], size, split_axis)) for sender in senders]
        return tf.concat([piece[own] for piece in pieces], axis=concat_axis)

    def _sum_in(self, groups, value):
        group = {number: place for place, group in enumerate(groups) for number in group}
        own = _table(group, self.count)[self.index]
        mask = tf.one_hot(own, len(groups), dtype=value.dtype)
        return self.sum(tf.tensordot(mask, value, axes=0))[own]


class TpuReplicas(_ManyReplicas):
    """The replicas of one TPU program.

    Args:
      index: <int32>[] number of this replica, in row-major order of the mesh.
      count: how many there are.
      mesh: `ExpertMesh` whose devices the replicas are; None if each holds all experts.
    """

    def sum(self, value):
        """As `OneReplica.sum`."""
        everyone = [list(range(self.count))]
        return tf.nest.map_structure(lambda part: self._sum_in(everyone, part), value)

    def gather(self, value):
        """As `OneReplica.gather`; a float or an int32."""
        # TensorFlow has no all-gather for TPUs: its own strategy sums rows put in their place, too.
        place = tf.one_hot(self.index, self.count, dtype=value.dtype)
        placed = tf.reshape(place, [self.count] + [1] * value.shape.rank) * value
        return tf.reshape(self.sum(placed), [self.count * value.shape[0], *value.shape[1:]])

    def exchange(self, value, *, groups, split_axis, concat_axis):
        """Cuts `value` into a piece for each replica of a group; joins what they send.

        Args:
          value: any shape and dtype.
          groups: lists of numbers of replicas, all of one length, that exchange with each other.
          split_axis: axis that is cut, the first piece for the first replica of the group.
          concat_axis: axis along which the received pieces are joined, in the order of the group.
        """
        return tpu_ops.all_to_all(
            value,
            split_dimension=split_axis,
            concat_dimension=concat_axis,
            split_count=len(groups[0]),
            group_assignment=groups,
        )

    def _sum_in(self, groups, value):
        if len(groups[0]) == 1:
            return value
        return tpu_ops.cross_replica_sum(value, groups)


def _table(values, count):
    return tf.constant([values[number] for number in range(count)])


_entered = threading.local()


@contextlib.contextmanager
def scope(everyone):
    """Makes `everyone` the current replicas of what this thread traces within.

    Args:
      everyone: `OneReplica`, `StrategyReplicas` or `TpuReplicas`.
    """
    outer = getattr(_entered, "replicas", None)
    _entered.replicas = everyone
    try:
        yield everyone
    finally:
        _entered.replicas = outer


def current():
    """Returns the replicas of the computation being traced or run."""
    entered = getattr(_entered, "replicas", None)
    return of_strategy() if entered is None else entered


def of_strategy(mesh=None):
    """Returns the replicas that `strategy.run` has called; OneReplica outside of it.

    Args:
      mesh: `ExpertMesh`; one that spans replicas says which experts each of them holds.

    Raises:
      ValueError: if the mesh spans another number of replicas.
    """
    shared = mesh if mesh is not None and mesh.over_replicas else None
    context = tf.distribute.get_replica_context()
    count = 1 if context is None else context.num_replicas_in_sync
    if shared is not None and shared.num_devices != count:
        raise ValueError(
            f"A mesh of {shared.num_devices} replicas needs a strategy with as many. "
            f"Received: {count}"
        )
    if count == 1:
        return OneReplica()
    if isinstance(context.strategy, tf.distribute.TPUStrategy):
        return TpuReplicas(context.replica_id_in_sync_group, count, shared)
    return StrategyReplicas(context, shared)
