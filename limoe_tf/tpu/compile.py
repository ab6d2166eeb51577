"""Compiles a lowered step with the TPU compiler, for a slice that nobody needs to have."""

import re
from typing import NamedTuple

import jax
import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jax._src.lib.mlir import ir
from jax.experimental import topologies

from limoe_tf.tpu import chips, collectives


class Compiled(NamedTuple):
    """What the compiler says of one chip's part of a step.

    Attributes:
      topology: name of the slice.
      num_chips: chips in it.
      arguments: bytes of weights, optimizer and batch.
      temporaries: bytes that are needed beside them while the step runs, results included.
      flops: operations.
      bytes_moved: bytes to and from HBM.
      collectives: list of `collectives.Collective`.
      hlo: text of the optimized program.
    """

    topology: str
    num_chips: int
    arguments: int
    temporaries: int
    flops: float
    bytes_moved: float
    collectives: list
    hlo: str

    @property
    def chip(self):
        """The `chips.Chip`."""
        return chips.CHIPS[chips.read_topology(self.topology)[0]]

    @property
    def memory(self):
        """Bytes of HBM that the step takes."""
        return self.arguments + self.temporaries

    @property
    def seconds(self):
        """Roofline: computing and reading HBM go on at once, the network comes on top."""
        chip = self.chip
        on_chip = max(self.flops / chip.flops, self.bytes_moved / chip.memory_bandwidth)
        return on_chip + sum(c.sent for c in self.collectives) / chip.network_bandwidth

    def utilisation(self, model_flops):
        """Returns the share of the slice's peak that `model_flops` of one step would take."""
        return model_flops / (self.seconds * self.num_chips * self.chip.flops)


class DoesNotFit(ValueError):
    """The step needs more HBM than a chip has; `largest` names buffers, the largest first."""

    def __init__(self, message, largest):
        super().__init__(message)
        self.largest = largest


def compile_step(program, topology):
    """Compiles a step for every chip of a slice.

    Args:
      program: `lower.Program` with as many replicas as the slice has chips.
      topology: such as "v5e:4x8".

    Returns:
      Compiled.

    Raises:
      ValueError: if the topology is unknown or has another number of chips.
      DoesNotFit: if it needs more memory than a chip has.
    """
    name, count = chips.read_topology(topology)
    if count != program.num_replicas:
        raise ValueError(
            f"A program of {program.num_replicas} replicas needs as many chips. "
            f"Received: topology={topology!r} with {count}"
        )
    executable = _compile(program, name, topology)
    memory = executable.get_compiled_memory_stats()
    cost = executable.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    hlo = executable.hlo_modules()[0].to_string()
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(
        topology,
        count,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes + fresh + memory.generated_code_size_in_bytes,
        cost["flops"],
        cost["bytes accessed"],
        collectives.find(hlo, num_replicas=count),
        hlo,
    )


def _compile(program, name, topology):
    # A v4 chip has two cores that work as one; the other chips' cores do so by themselves.
    options = {"chip_config_name": "megacore"} if name == "v4" else {}
    try:
        slice_ = topologies.get_topology_desc(topology, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"`topology` must be a slice that there is. Received: topology={topology!r} ({error})"
        ) from error
    devices = tuple(slice_.devices)
    how = xla_client.CompileOptions()
    how.num_replicas, how.num_partitions = len(devices), 1
    places = np.arange(len(devices)).reshape(-1, 1)
    how.device_assignment = xla_client.DeviceAssignment.create(places)
    try:
        return devices[0].client.compile(_module(program), xla_client.DeviceList(devices), how)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(*_shortage(str(error), topology)) from error


def _module(program):
    """Returns the program as a module in which the new state takes the place of the old."""
    with mlir.make_ir_context():
        module = ir.Module.parse(program.module)
        main = next(f for f in module.body.operations if f.attributes["sym_name"].value == "main")
        aliases = []
        for index in range(len(main.arguments)):
            given = main.arg_attrs[index] if "arg_attrs" in main.attributes else ir.DictAttr.get({})
            kept = {item.name: item.attr for item in given}
            if index < len(program.state):
                result = ir.IntegerAttr.get(
                    ir.IntegerType.get_signless(32), len(program.results) + index
                )
                kept["tf.aliasing_output"] = result
            aliases.append(ir.DictAttr.get(kept))
        main.arg_attrs = ir.ArrayAttr.get(aliases)
    return module


def _shortage(message, topology):
    """Returns a line that says what is missing, and the largest buffers, from libtpu's message."""
    used = re.search(r"Used (\S+) of (\S+) hbm", message)
    needed = f"{used[1]} of {used[2]}" if used else f"more ({message.splitlines()[0]})"
    held = re.search(r"arguments +(\S+)", message)
    largest = [f"{held[1]} weights, optimizer and batch"] if held else []
    entry = r"\d+\. Size: (\S+)\n(?:\s+Operator: (.*)\n)?\s+Shape: (\S+)"
    for size, operator, shape in re.findall(entry, message):
        name = re.search(r'op_name="([^"]*)"', operator)
        largest.append(f"{size} {shape}{' of ' + name[1] if name else ''}")
    return f"The step does not fit a chip of {topology}: it needs {needed}.", largest
