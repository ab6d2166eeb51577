"""Replica contexts: index, count, sum, mean and gather over all replicas of the global batch.

A loss on a replica is a value whose mean over replicas is the global loss. Each replica
differentiates its value divided by `count`; the sum of the replicas' gradients is then the gradient
of the global loss, because `sum` and `gather` pass gradients back by summing them over replicas.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from limoe_tf.mesh.collectives import StrategyCollectives, TpuCollectives


class OneReplica:
    """The context of a single replica: every operation is the identity."""

    index = 0
    count = 1
    mesh = None

    @property
    def replica(self) -> "OneReplica":
        """The context of the replica that a `slices.Slice` belongs to; otherwise this context."""
        return self

    def snapshot(self) -> "OneReplica":
        """Returns the context in its present state, to recompute later what is computed next."""
        return self

    def sum(self, value: Any) -> Any:
        """Returns the sum of `value` over replicas; any shape and dtype, or a nest of such."""
        return value

    def mean(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the mean of `value` over replicas; any shape, a float dtype."""
        return value

    def gather(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the replicas' `value` [B, ...] concatenated to [count * B, ...]."""
        return value

    def sum_over_data(self, value: Any) -> Any:
        """Returns the sum of `value`, or of a nest, over replicas that have the same experts."""
        return value

    def sum_over_experts(self, value: Any) -> Any:
        """Returns the sum of `value` over replicas that together have every expert once."""
        return value


class ManyReplicas:
    """The context of one of several replicas, which all run the same code.

    Args:
      index: int or <int32>[] number of this replica, in row-major order of the mesh.
      count: how many there are.
      collectives: `StrategyCollectives` or `TpuCollectives`.
      mesh: `ExpertMesh` whose devices the replicas are; None if each has all experts.
    """

    def __init__(
        self,
        index: int | tf.Tensor,
        count: int,
        collectives: StrategyCollectives | TpuCollectives,
        mesh=None,
    ):
        self.index, self.count, self.mesh = index, count, mesh
        self._collectives = collectives
        # Replicas that are threads of a host cannot run collectives in a loop of the graph.
        self.in_one_program = isinstance(collectives, TpuCollectives)

    @property
    def replica(self) -> "ManyReplicas":
        """As `OneReplica.replica`."""
        return self

    def snapshot(self) -> "ManyReplicas":
        """As `OneReplica.again`."""
        return self

    def sum(self, value: Any) -> Any:
        """As `OneReplica.sum`."""
        return self._collectives.sum(value)

    def mean(self, value: tf.Tensor) -> tf.Tensor:
        """As `OneReplica.mean`."""
        return self.sum(value) / self.count

    def gather(self, value: tf.Tensor) -> tf.Tensor:
        """As `OneReplica.gather`."""
        return self._collectives.gather(value)

    def sum_over_data(self, value: Any) -> Any:
        """As `OneReplica.sum_over_data`."""
        return self.sum(value) if self.mesh is None else self._sum_along("data", value)

    def sum_over_experts(self, value: Any) -> Any:
        """As `OneReplica.sum_over_experts`."""
        return value if self.mesh is None else self._sum_along("expert", value)

    def _sum_along(self, axis, value):
        groups = self.mesh.groups(axis)
        if len(groups[0]) == 1:
            return value
        return tf.nest.map_structure(lambda part: self._collectives.sum_in(groups, part), value)

    def all_to_all(
        self,
        value: tf.Tensor,
        *,
        groups: Sequence[Sequence[int]],
        split_axis: int,
        concat_axis: int,
    ) -> tf.Tensor:
        """Splits `value` into a part for each replica of a group; concatenates the received parts.

        Args:
          value: any shape and dtype.
          groups: lists of numbers of replicas, all of one length, that exchange with each other.
          split_axis: axis that is split, the first part for the first replica of the group.
          concat_axis: axis along which received parts are concatenated, in the order of the group.
        """
        return self._collectives.all_to_all(value, groups, split_axis, concat_axis)


_entered = threading.local()


@contextlib.contextmanager
def scope(context: OneReplica | ManyReplicas) -> Iterator[OneReplica | ManyReplicas]:
    """Makes `context` the current one of this thread while it traces or runs code.

    Args:
      context: `OneReplica` or `ManyReplicas`.
    """
    outer = getattr(_entered, "replicas", None)
    _entered.replicas = context
    try:
        yield context
    finally:
        _entered.replicas = outer


def current() -> OneReplica | ManyReplicas:
    """Returns the context of the computation that is traced or run."""
    entered = getattr(_entered, "replicas", None)
    return of_strategy() if entered is None else entered


def of_strategy(mesh=None) -> OneReplica | ManyReplicas:
    """Returns the context of a replica in `strategy.run`; OneReplica outside of it.

    Args:
      mesh: `ExpertMesh`; None, or one that does not span replicas, if each has all experts.

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


def of_mesh(mesh, index: tf.Tensor) -> ManyReplicas:
    """Returns the context of a replica of a TPU program.

    Args:
      mesh: `ExpertMesh` that spans them.
      index: <int32>[] number of this replica.
    """
    shared = mesh if mesh.over_replicas else None
    return ManyReplicas(index, mesh.num_devices, TpuCollectives(index, mesh.num_devices), shared)
