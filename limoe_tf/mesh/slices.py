"""Parts of a replica's batch that are computed one after another, each as if it were a replica."""

import copy

import tensorflow as tf


class Slice:
    """The current replicas of what computes one slice; the slices of a replica follow each other.

    A sum over all slices is not known before the last of them. So each slice is computed twice: a
    first pass gathers the `parts` of the sums, in the order in which they are asked for, and gets
    these parts for an answer; the second gets the totals. What is made of a total must be the same
    on all slices; then its gradient flows from each slice to that slice's own part.

    Args:
      replica: `OneReplica` or `ManyReplicas` that the slice is a part of.
      number: int or <int32>[] of this slice, from 0.
      num_slices: how many slices each replica has.
      totals: list of the sums over all slices of all replicas; None in the first pass.
    """

    def __init__(self, replica, number, num_slices, totals=None):
        self.replica, self.mesh = replica.replica, replica.mesh
        self.index = replica.index * num_slices + number
        self.count = replica.count * num_slices
        self.parts = []
        self._totals = totals

    def sum(self, value):
        """Returns the sum of `value` <float>[...] over all slices; in the first pass the part."""
        self.parts.append(value)
        if self._totals is None:
            return value
        # Zero, but with a gradient. Each replica differentiates its share of a loss alone, one over
        # the number of replicas: what all of them make of the total has that many times as much.
        own = self.replica.count * (value - tf.stop_gradient(value))
        return self._totals[len(self.parts) - 1] + own

    def mean(self, value):
        """Returns the mean of `value` over all slices."""
        return self.sum(value) / self.count

    def again(self):
        """Returns this slice as it is now, to compute once more what follows."""
        other = copy.copy(self)
        other.parts = list(self.parts)
        return other
