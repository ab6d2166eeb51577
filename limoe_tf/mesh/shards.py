"""Variables of experts that are sharded over replicas, read and assigned as a whole [E, ...]."""

import tensorflow as tf
from tensorflow.python.trackable.base import VARIABLE_VALUE_KEY, Trackable
from tensorflow.python.training.saving.saveable_object import SaveSpec

from limoe_tf.mesh.expert_mesh import ExpertMesh


class Whole(Trackable):
    """All experts of a variable that is sharded over the replicas of a strategy.

    In a `tf.train.Checkpoint` it saves and restores as the whole variable on one device would.

    Args:
      variable: `tf.Variable` made under a strategy, [E / shards, ...].
      mesh: `ExpertMesh` whose devices are the replicas.

    Raises:
      ValueError: if the strategy has another number of replicas than the mesh.
    """

    def __init__(self, variable: tf.Variable, mesh: ExpertMesh):
        self._on_replicas = variable.values
        if len(self._on_replicas) != mesh.num_devices:
            raise ValueError(
                f"A mesh of {mesh.num_devices} replicas needs a strategy with as many. "
                f"Received: {len(self._on_replicas)}"
            )
        self._shards = [mesh.shard_of(replica) for replica in range(mesh.num_devices)]
        experts = variable.shape[0] * (1 + max(self._shards))
        self.shape = tf.TensorShape([experts, *variable.shape[1:]])
        self.dtype = variable.dtype

    def read(self) -> tf.Tensor:
        """Returns the tensor <...>[E, ...], in the memory of the host."""
        firsts = [
            self._on_replicas[self._shards.index(shard)] for shard in sorted(set(self._shards))
        ]
        with tf.device("CPU:0"):
            return tf.concat([tf.identity(part) for part in firsts], axis=0)

    def assign(self, value: tf.Tensor) -> None:
        """Assigns each replica its shard of <...>[E, ...]."""
        parts = tf.split(value, 1 + max(self._shards))
        for part, shard in zip(self._on_replicas, self._shards):
            with tf.device(part.device):
                part.assign(parts[shard])

    def _serialize_to_tensors(self):
        # A function, which TensorFlow calls when it saves and not when it restores.
        spec = SaveSpec(self.read, "", VARIABLE_VALUE_KEY, dtype=self.dtype, device="CPU:0")
        return {VARIABLE_VALUE_KEY: spec}

    def _restore_from_tensors(self, tensors):
        self.assign(tensors[VARIABLE_VALUE_KEY])


def as_whole(variable: tf.Variable, mesh: ExpertMesh | None) -> tf.Variable | Whole:
    """Returns the `tf.Variable`, or `Whole` of it if it is sharded over replicas.

    Args:
      variable: `tf.Variable` whose first axis is that of the experts.
      mesh: `ExpertMesh` or None.
    """
    distributed = isinstance(variable, tf.distribute.DistributedValues)
    if distributed and mesh is not None and mesh.over_replicas:
        return Whole(variable, mesh)
    return variable
