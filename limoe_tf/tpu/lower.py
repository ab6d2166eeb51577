"""Lowers the train step of a model for TPU replicas, with no TPU: a pure function of flat state.

The step is `train.step.update` itself, on a model whose expert mesh spans replicas.
"""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.tpu.stateless import stateless
from limoe_tf.train import names, step
from limoe_tf.train.optimizer import is_expert


class Array(NamedTuple):
    """One argument or result of a program, as a replica holds it.

    Attributes:
      name: as in a checkpoint, for variables.
      shape: tuple.
      dtype: name of the dtype.
      sharded: whether the first axis holds the replica's own experts.
    """

    name: str
    shape: tuple
    dtype: str
    sharded: bool = False


class Program(NamedTuple):
    """A lowered step: arguments are the state, the replica's batch and its number <int32>[].

    Attributes:
      module: serialized StableHLO. (Of HLO, XLA would make it in memory that grows with the square
        of the program: 16 GB for H/14.)
      state: tuple of Array; the program's last results are the same, one step later.
      batch: tuple of Array.
      results: tuple of Array, in front of the new state.
      shards: tuple, for each replica the place of its shard of experts among the shards.
    """

    module: bytes
    state: tuple
    batch: tuple
    results: tuple
    shards: tuple

    @property
    def num_replicas(self):
        """How many replicas run the program."""
        return len(self.shards)

    def local(self, array, whole, replica):
        """Returns what a replica holds of the whole of a variable or of the global batch."""
        if array.sharded:
            held = array.shape[0]
            return whole[self.shards[replica] * held : (self.shards[replica] + 1) * held]
        return whole

    def whole(self, array, parts):
        """Returns the whole of a variable from what each replica holds: the inverse of `local`."""
        if not array.sharded:
            return parts[0]
        by_shard = dict(zip(self.shards, parts))
        return np.concatenate([by_shard[shard] for shard in sorted(by_shard)])


def batch_of(model, size):
    """Returns the batch of `size` pairs that `model` takes, as a tuple of Array."""
    images = (size, model.image_size, model.image_size, 3)
    return (
        Array("image", images, "uint8"),
        Array("text", (size, model.text_length), "int32"),
        Array("text_valid", (size, model.text_length), "bool"),
    )


def lower(model, *, global_batch, mesh=None, function=step.update):
    """Lowers one step of a model for the replicas of its expert mesh.

    Args:
      model: compiled `Limoe` or `TwoTower`; its optimizer can do nothing else afterwards.
      global_batch: pairs of all replicas.
      mesh: `ExpertMesh` of the replicas; None for the model's own.
      function: called with (model, batch, loss weights) on a replica; returns a dict by name of
        tensors that are reported. `train.step.update` unless something else shall be looked at.

    Returns:
      Program.

    Raises:
      ValueError: if the mesh is one of this host's devices, or `global_batch` cannot be divided by
        the number of replicas.
    """
    mesh = model.expert_mesh if mesh is None else mesh
    mesh = ExpertMesh(spans="replicas") if mesh is None else mesh
    if mesh.spans != "replicas":
        raise ValueError(f"The mesh of a TPU program must span replicas. Received: {mesh.shape}")
    if global_batch % mesh.num_devices:
        raise ValueError(
            f"`global_batch` must be divisible by the {mesh.num_devices} replicas of the mesh. "
            f"Received: global_batch={global_batch}"
        )
    stateless(model.optimizer)
    named = names.of_state(model)
    state = tuple(_described(name, variable, mesh) for name, variable in named.items())
    batch = batch_of(model, global_batch // mesh.num_devices)
    results = []

    def program(*arguments):
        values, rest = arguments[: len(state)], arguments[len(state) :]
        inputs = {array.name: value for array, value in zip(batch, rest)}
        everyone = replicas.of_mesh(mesh, rest[-1])
        pairs = list(zip(named.values(), values))
        with replicas.scope(everyone):
            with keras.StatelessScope(pairs, initialize_variables=False) as scope:
                found = function(model, inputs, model.loss_weights)
        results[:] = [_described(name, value, mesh) for name, value in found.items()]
        return [*found.values(), *(scope.get_current_value(v) for v in named.values())]

    specs = [tf.TensorSpec(array.shape, array.dtype) for array in (*state, *batch)]
    compiled = tf.function(program, jit_compile=True, autograph=False)
    ir = compiled.experimental_get_compiler_ir(*specs, tf.TensorSpec([], tf.int32))
    module = ir(stage="stablehlo_serialized", platform_name="TPU")
    shards = tuple(mesh.shard_of(replica) for replica in range(mesh.num_devices))
    return Program(module, state, batch, tuple(results), shards)


def _described(name, value, mesh):
    """Returns the Array of a variable, a gradient or a number that is called `name`."""
    sharded = mesh.over_replicas and is_expert(name)
    return Array(name, tuple(value.shape), tf.as_dtype(value.dtype).name, sharded)
