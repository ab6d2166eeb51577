"""Slices (microbatches) of a replica's batch, each computed as if it were a replica."""

import copy
from collections.abc import Sequence

import tensorflow as tf

from limoe_tf.mesh.replicas import ManyReplicas, OneReplica


class Slice:
    """The replica context of one slice; the slices of a replica are computed one after another.

    A sum over all slices is not known before the last of them. So each slice is computed twice: in
    a first pass `sum` records its arguments in `parts`, in the order of the calls, and returns
    them; in the second it returns the totals. What is computed from a total must be the same on all
    slices; then its gradient flows from each slice to that slice's own part.

    Args:
      replica: `OneReplica` or `ManyReplicas` that the slice is a part of.
      number: int or <int32>[], the index of this slice, from 0.
      num_slices: number of slices of each replica.
      totals: list of the sums over all slices of all replicas; None in the first pass.
    """

    def __init__(
        self,
        replica: OneReplica | ManyReplicas,
        number: int | tf.Tensor,
        num_slices: int,
        totals: Sequence[tf.Tensor] | None = None,
    ):
        self.replica, self.mesh = replica.replica, replica.mesh
        self.index = replica.index * num_slices + number
        self.count = replica.count * num_slices
        self.parts = []
        self._totals = totals

    def sum(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the sum of `value` <float>[...] over all slices; in the first pass, `value`."""
        self.parts.append(value)
        if self._totals is None:
            return value
        # Zero, but with a gradient. Each replica differentiates only its share of a loss, one over
        # the number of replicas: the gradient through the total on all of them is that many times
        # as large.
        own = self.replica.count * (value - tf.stop_gradient(value))
        return self._totals[len(self.parts) - 1] + own

    def mean(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the mean of `value` over all slices."""
        return self.sum(value) / self.count

    def snapshot(self) -> "Slice":
        """As `OneReplica.snapshot`."""
        other = copy.copy(self)
        other.parts = list(self.parts)
        return other
