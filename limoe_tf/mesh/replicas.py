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


class StrategyReplicas:
    """The replicas of a `tf.distribute` strategy, seen from within `strategy.run`.

    Every replica holds all experts.

    Args:
      context: the `tf.distribute.ReplicaContext`.
    """

    mesh = None

    def __init__(self, context):
        self._context = context
        self.index = context.replica_id_in_sync_group
        self.count = context.num_replicas_in_sync

    def sum(self, value):
        """As `OneReplica.sum`."""
        return self._context.all_reduce(tf.distribute.ReduceOp.SUM, value)

    def mean(self, value):
        """As `OneReplica.mean`."""
        return self.sum(value) / self.count

    def gather(self, value):
        """As `OneReplica.gather`."""
        gathered = self._context.all_gather(value, axis=0)
        rows = value.shape[0]
        rows = None if rows is None else rows * self.count
        return tf.ensure_shape(gathered, [rows, *value.shape[1:]])

    def sum_over_data(self, value):
        """As `OneReplica.sum_over_data`."""
        return self.sum(value)

    def sum_over_experts(self, value):
        """As `OneReplica.sum_over_experts`."""
        return value


class TpuReplicas:
    """The replicas of one TPU program, which form a mesh and hold the experts in shards.

    Args:
      index: <int32>[] number of this replica, in row-major order of the mesh.
      mesh: `expert_mesh.ExpertMesh` that spans replicas.
    """

    def __init__(self, index, mesh):
        self.index = index
        self.count = mesh.num_devices
        self.mesh = mesh if mesh.over_replicas else None
        self._mesh = mesh
        self._everyone = [list(range(self.count))]

    def sum(self, value):
        """As `OneReplica.sum`."""
        return _sum_in_groups(value, self._everyone)

    def mean(self, value):
        """As `OneReplica.mean`."""
        return self.sum(value) / self.count

    def gather(self, value):
        """As `OneReplica.gather`; a float or an int32."""
        # TensorFlow has no all-gather for TPUs: its own strategy sums rows put in their place, too.
        place = tf.one_hot(self.index, self.count, dtype=value.dtype)
        placed = tf.reshape(place, [self.count] + [1] * value.shape.rank) * value
        return tf.reshape(self.sum(placed), [self.count * value.shape[0], *value.shape[1:]])

    def sum_over_data(self, value):
        """As `OneReplica.sum_over_data`."""
        return _sum_in_groups(value, self._mesh.groups("data"))

    def sum_over_experts(self, value):
        """As `OneReplica.sum_over_experts`."""
        return _sum_in_groups(value, self._mesh.groups("expert"))


def _sum_in_groups(value, groups):
    if len(groups[0]) == 1:
        return value
    return tf.nest.map_structure(lambda part: tpu_ops.cross_replica_sum(part, groups), value)


_entered = threading.local()


@contextlib.contextmanager
def scope(everyone):
    """Makes `everyone` the current replicas of what this thread traces within.

    Args:
      everyone: `TpuReplicas`.
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
    if entered is not None:
        return entered
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return OneReplica()
    return StrategyReplicas(context)
