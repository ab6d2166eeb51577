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

    @property
    def replica(self):
        """The replica that a slice of its batch belongs to; of a whole batch, these replicas."""
        return self

    def again(self):
        """Returns the replicas for computing once more what is now computed first."""
        return self

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


class ManyReplicas:
    """Several replicas, each of which runs the same code.

    Args:
      index: int or <int32>[] number of this replica, in row-major order of the mesh.
      count: how many there are.
      collectives: `StrategyCollectives` or `TpuCollectives`, by which they exchange numbers.
      mesh: `ExpertMesh` whose devices the replicas are; None if each holds all experts.
    """

    def __init__(self, index, count, collectives, mesh=None):
        self.index, self.count, self.mesh = index, count, mesh
        self._collectives = collectives
        # Threads of a strategy on a host can exchange nothing within a loop of the graph.
        self.in_one_program = isinstance(collectives, TpuCollectives)

    @property
    def replica(self):
        """As `OneReplica.replica`."""
        return self

    def again(self):
        """As `OneReplica.again`."""
        return self

    def sum(self, value):
        """As `OneReplica.sum`."""
        return self._collectives.sum(value)

    def mean(self, value):
        """As `OneReplica.mean`."""
        return self.sum(value) / self.count

    def gather(self, value):
        """As `OneReplica.gather`."""
        return self._collectives.gather(value)

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
        return tf.nest.map_structure(lambda part: self._collectives.sum_in(groups, part), value)

    def exchange(self, value, *, groups, split_axis, concat_axis):
        """Cuts `value` into a piece for each replica of a group; joins what they send.

        Args:
          value: any shape and dtype.
          groups: lists of numbers of replicas, all of one length, that exchange with each other.
          split_axis: axis that is cut, the first piece for the first replica of the group.
          concat_axis: axis along which the received pieces are joined, in the order of the group.
        """
        return self._collectives.exchange(value, groups, split_axis, concat_axis)


class StrategyCollectives:
    """Exchanges of the replicas of a `tf.distribute` strategy.

    Such a strategy knows no groups of replicas: what groups exchange goes to everyone.

    Args:
      context: the `tf.distribute.ReplicaContext`.
    """

    def __init__(self, context):
        self._context = context
        self._index, self._count = context.replica_id_in_sync_group, context.num_replicas_in_sync

    def sum(self, value):
        return self._context.all_reduce(tf.distribute.ReduceOp.SUM, value)

    def gather(self, value):
        gathered = self._context.all_gather(value, axis=0)
        rows = value.shape[0]
        rows = None if rows is None else rows * self._count
        return tf.ensure_shape(gathered, [rows, *value.shape[1:]])

    def sum_in(self, groups, value):
        group = {number: place for place, group in enumerate(groups) for number in group}
        own = self._own(group)
        mask = tf.one_hot(own, len(groups), dtype=value.dtype)
        return self.sum(tf.tensordot(mask, value, axes=0))[own]

    def exchange(self, value, groups, split_axis, concat_axis):
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
    """Exchanges of the replicas of one TPU program.

    Args:
      index: <int32>[] number of this replica.
      count: how many there are.
    """

    def __init__(self, index, count):
        self._index, self._count = index, count

    def sum(self, value):
        everyone = [list(range(self._count))]
        return tf.nest.map_structure(lambda part: self.sum_in(everyone, part), value)

    def gather(self, value):
        # TensorFlow has no all-gather for TPUs: its own strategy sums rows put in their place, too.
        place = tf.one_hot(self._index, self._count, dtype=value.dtype)
        placed = tf.reshape(place, [self._count] + [1] * value.shape.rank) * value
        return tf.reshape(self.sum(placed), [self._count * value.shape[0], *value.shape[1:]])

    def sum_in(self, groups, value):
        return tpu_ops.cross_replica_sum(value, groups) if len(groups[0]) > 1 else value

    def exchange(self, value, groups, split_axis, concat_axis):
        return tpu_ops.all_to_all(
            value,
            split_dimension=split_axis,
            concat_dimension=concat_axis,
            split_count=len(groups[0]),
            group_assignment=groups,
        )


_entered = threading.local()


@contextlib.contextmanager
def scope(everyone):
    """Makes `everyone` the current replicas of what this thread traces within.

    Args:
      everyone: `OneReplica` or `ManyReplicas`.
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
    index = context.replica_id_in_sync_group
    if isinstance(context.strategy, tf.distribute.TPUStrategy):
        return ManyReplicas(index, count, TpuCollectives(index, count), shared)
    return ManyReplicas(index, count, StrategyCollectives(context), shared)


def of_mesh(mesh, index):
    """Returns the replicas of a TPU program.

    Args:
      mesh: `ExpertMesh` that spans them.
      index: <int32>[] number of this replica.
    """
    shared = mesh if mesh.over_replicas else None
    return ManyReplicas(index, mesh.num_devices, TpuCollectives(index, mesh.num_devices), shared)
