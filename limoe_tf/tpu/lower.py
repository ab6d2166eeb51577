"""Lowers the train step of a model for TPU replicas, without a TPU: a pure function of flat state.

The step is `train.step.update` itself, on a model whose expert mesh spans replicas.
"""

from collections.abc import Callable, Sequence
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
    """One argument or result of a program, on one replica.

    Attributes:
      name: as in a checkpoint, for variables.
      shape: tuple.
      dtype: name of the dtype.
      sharded: whether the first axis is that of the replica's own experts.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    sharded: bool = False


class Program(NamedTuple):
    """A lowered step: arguments are the state, the replica's batch and its number <int32>[].

    Attributes:
      module: serialized StableHLO. (Converting HLO to it takes memory quadratic in the size of the
        program: 16 GB for H/14.)
      state: tuple of Array; the program's last results are the new state.
      batch: tuple of Array.
      results: tuple of Array, before the new state.
      shards: tuple, for each replica the index of its shard of experts.
    """

    module: bytes
    state: tuple[Array, ...]
    batch: tuple[Array, ...]
    results: tuple[Array, ...]
    shards: tuple[int, ...]

    @property
    def num_replicas(self) -> int:
        """Number of replicas that run the program."""
        return len(self.shards)

    def local(self, array: Array, whole: np.ndarray, replica: int) -> np.ndarray:
        """Returns a replica's part of a whole variable."""
        if array.sharded:
            size = array.shape[0]
            return whole[self.shards[replica] * size : (self.shards[replica] + 1) * size]
        return whole

    def whole(self, array: Array, parts: Sequence[np.ndarray]) -> np.ndarray:
        """Returns a whole variable from the parts of all replicas: the inverse of `local`."""
        if not array.sharded:
            return parts[0]
        by_shard = dict(zip(self.shards, parts))
        return np.concatenate([by_shard[shard] for shard in sorted(by_shard)])


def batch_of(model: keras.Model, size: int) -> tuple[Array, ...]:
    """Returns `model`'s batch of `size` examples, as a tuple of Array."""
    specs = model.batch_spec(size)
    return tuple(Array(name, tuple(spec.shape), spec.dtype.name) for name, spec in specs.items())


def lower(
    model: keras.Model,
    *,
    global_batch: int,
    mesh: ExpertMesh | None = None,
    function: Callable = step.update,
) -> Program:
    """Lowers one step of a model for the replicas of its expert mesh.

    Args:
      model: compiled `Limoe` or `TwoTower`; its optimizer cannot be used otherwise afterwards.
      global_batch: examples of all replicas together.
      mesh: `ExpertMesh` of the replicas; None for the model's own.
      function: called with (model, batch, loss weights) on a replica; returns a dict by name of
        tensors, the program's results.

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
        context = replicas.of_mesh(mesh, rest[-1])
        values_of = list(zip(named.values(), values))
        with replicas.scope(context):
            with keras.StatelessScope(values_of, initialize_variables=False) as scope:
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
    """Returns the Array of a variable, a gradient or another result of this name."""
    sharded = mesh.over_replicas and is_expert(name)
    return Array(name, tuple(value.shape), tf.as_dtype(value.dtype).name, sharded)
