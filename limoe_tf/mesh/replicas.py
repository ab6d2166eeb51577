"""Numbers that span the global batch: index, count, sum, mean and gather over replicas.

A loss on a replica is a value whose mean over replicas is the global loss. Each replica
differentiates its value divided by `count`; the sum of the replicas' gradients is then the gradient
of the global loss, because `sum` and `gather` pass gradients back by summing them over replicas.
"""

import tensorflow as tf


class OneReplica:
    """The only replica there is: every operation is the identity."""

    index = 0
    count = 1

    def sum(self, value):
        """Returns the sum of `value` over replicas; any shape and dtype."""
        return value

    def mean(self, value):
        """Returns the mean of `value` over replicas; any shape, a float dtype."""
        return value

    def gather(self, value):
        """Returns the replicas' `value` [B, ...] joined along the first axis: [count * B, ...]."""
        return value


class StrategyReplicas:
    """The replicas of a `tf.distribute` strategy, seen from within `strategy.run`.

    Args:
      context: the `tf.distribute.ReplicaContext`.
    """

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


def current():
    """Returns the replicas of the computation being traced or run."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return OneReplica()
    return StrategyReplicas(context)
