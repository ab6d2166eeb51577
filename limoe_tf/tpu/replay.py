"""Runs a lowered step on virtual CPU replicas, collectives included, step after step."""

from collections.abc import Mapping

import jax
import numpy as np
from jax._src.lib import xla_client
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from limoe_tf.tpu.lower import Program


class Replay:
    """The replicas of a program, as threads of this process, each with its state.

    The first Replay of a process fixes the number of virtual devices.

    Args:
      program: `lower.Program`.
      state: dict by name of all variables, whole, experts as [E, ...].

    Raises:
      ValueError: if a variable is missing or has another shape, or there are too many replicas.
    """

    def __init__(self, program: Program, state: Mapping[str, np.ndarray]):
        self.program = program
        self._devices = _virtual_devices(program.num_replicas)
        self._mesh = Mesh(np.array(self._devices), ("replica",))
        self._executable = self._compile()
        self._state = [self._placed_variable(array, state) for array in program.state]

    def step(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs one step.

        Args:
          batch: dict of NumPy arrays, the global batch; replica r takes the r-th part of its rows.

        Returns:
          dict by name of the results of all replicas, [replicas, ...].
        """
        count = self.program.num_replicas
        rows = [np.split(batch[array.name], count) for array in self.program.batch]
        numbers = [np.int32(number) for number in range(count)]
        arguments = [*self._state, *map(self._placed, rows), self._placed(numbers)]
        outputs = self._executable.execute_sharded(arguments)
        parts = outputs.disassemble_into_single_device_arrays()
        results = self.program.results
        reported, state = parts[: len(results)], parts[len(results) :]
        self._state = [self._joined(values) for values in state]
        return {array.name: np.stack(values) for array, values in zip(results, reported)}

    def state(self) -> dict[str, list[np.ndarray]]:
        """Returns the replicas' parts of every variable, a dict by name of lists."""
        return {
            array.name: [
                np.asarray(shard.data).reshape(array.shape) for shard in value.addressable_shards
            ]
            for array, value in zip(self.program.state, self._state)
        }

    def whole_state(self) -> dict[str, np.ndarray]:
        """Returns every variable, whole, a dict by name."""
        parts = self.state()
        return {
            array.name: self.program.whole(array, parts[array.name]) for array in self.program.state
        }

    def _compile(self):
        count = self.program.num_replicas
        options = xla_client.CompileOptions()
        options.num_replicas, options.num_partitions = count, 1
        ids = np.arange(count).reshape(count, 1)
        options.device_assignment = xla_client.DeviceAssignment.create(ids)
        # Replicas wait for each other in collectives; after 40 seconds XLA would abort the process.
        options.env_option_overrides = [("xla_cpu_collective_call_terminate_timeout_seconds", 600)]
        devices = xla_client.DeviceList(tuple(self._devices))
        return self._devices[0].client.compile_and_load(self.program.module, devices, options)

    def _placed_variable(self, array, state):
        if array.name not in state:
            raise ValueError(f"`state` must hold every variable. Received: none for {array.name}")
        whole = np.asarray(state[array.name])
        replicas = range(self.program.num_replicas)
        locals_ = [self.program.local(array, whole, replica) for replica in replicas]
        for local in locals_:
            if local.shape != tuple(array.shape) or local.dtype.name != array.dtype:
                raise ValueError(
                    f"{array.name} must be {array.dtype}{list(array.shape)} on each replica. "
                    f"Received: {local.dtype.name}{list(local.shape)}"
                )
        return self._placed(locals_)

    def _placed(self, values):
        """Returns the global array of which device r holds the r-th of `values`."""
        with jax.enable_x64(True):  # `optimizer.iterations` is int64.
            return self._joined(
                [
                    jax.device_put(np.asarray(value), device)
                    for value, device in zip(values, self._devices)
                ]
            )

    def _joined(self, values):
        shape = values[0].shape
        spec = PartitionSpec("replica") if shape else PartitionSpec()
        whole = (shape[0] * len(values), *shape[1:]) if shape else ()
        return jax.make_array_from_single_device_arrays(
            whole, NamedSharding(self._mesh, spec), list(values)
        )


def _virtual_devices(count):
    """Returns `count` virtual CPU devices; the first call fixes how many the process has."""
    if not jax._src.xla_bridge.backends_are_initialized():
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", max(8, count))
    devices = jax.devices("cpu")
    if count > len(devices):
        raise ValueError(
            f"This process has {len(devices)} virtual CPU devices; the program needs {count}."
        )
    return devices[:count]
