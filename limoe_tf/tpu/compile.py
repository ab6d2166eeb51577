"""Compiles a lowered step with the TPU compiler, ahead of time: no TPU is needed.

What a step takes at least is told by a roofline: the most that computing, HBM and network could do.
It leaves out what a program must wait for: the start of each instruction and copy; vector units,
which do what is no matmul; matmuls whose sides do not fill the matrix units; operands that a matmul
reads more than once since they do not fit the memory on the chip; exchanges that meet on a link or
pass several; the host and its input. Nor does it know of exchanges that computing hides.
"""

import re
from typing import NamedTuple

import jax
import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jax._src.lib.mlir import ir
from jax.experimental import topologies

from limoe_tf.tpu import chips, collectives, hlo, operations, traffic
from limoe_tf.tpu.lower import Program


class Compiled(NamedTuple):
    """A compiled step; numbers are of one chip.

    Attributes:
      topology: of the slice.
      num_chips: number of chips in it.
      arguments: bytes of weights, optimizer state and batch.
      temporaries: bytes needed besides while the step runs, results included.
      flops: floating-point operations, by the compiler; loops count as often as they run.
      hbm_bytes: bytes to and from HBM, see `traffic`.
      collectives: list of `collectives.Collective`.
      hlo: text of the optimized program.
      unknown_loops: tuple of the names of loops whose trips are not known, which count once.
    """

    topology: str
    num_chips: int
    arguments: int
    temporaries: int
    flops: float
    hbm_bytes: int
    collectives: list[collectives.Collective]
    hlo: str
    unknown_loops: tuple[str, ...] = ()

    @property
    def chip(self) -> chips.Chip:
        """The `chips.Chip`."""
        return chips.CHIPS[chips.read_topology(self.topology)[0]]

    @property
    def memory(self) -> int:
        """Bytes of HBM that the step needs."""
        return self.arguments + self.temporaries

    @property
    def sent(self) -> float:
        """Bytes that all collectives together send."""
        return sum(collective.sent for collective in self.collectives)

    @property
    def bounds(self) -> dict[str, float]:
        """The seconds that computing, HBM and network take at their peaks."""
        return {
            "computing": self.flops / self.chip.flops,
            "HBM": self.hbm_bytes / self.chip.memory_bandwidth,
            "network": self.sent / self.chip.network_bandwidth,
        }

    @property
    def seconds(self) -> float:
        """Roofline: computing and HBM traffic overlap, the network comes on top."""
        bounds = self.bounds
        return max(bounds["computing"], bounds["HBM"]) + bounds["network"]

    def utilisation(self, model_flops: float) -> float:
        """Returns the model FLOPs utilisation: the share of the slice's peak FLOPs."""
        return model_flops / (self.seconds * self.num_chips * self.chip.flops)


class DoesNotFit(ValueError):
    """The step needs more HBM than a chip has; `largest` names buffers, the largest first."""

    def __init__(self, message: str, largest: list[str]):
        super().__init__(message)
        self.largest = largest


def compile_step(program: Program, topology: str) -> Compiled:
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
    text = executable.hlo_modules()[0].to_string()
    module = hlo.read(text)
    fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Compiled(
        topology,
        count,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes + fresh + memory.generated_code_size_in_bytes,
        cost["flops"] + operations.repeated(module),
        sum(moved.bytes for moved in traffic.moved(module)),
        collectives.find(text, num_replicas=count),
        text,
        tuple(traffic.unknown_loops(module)),
    )


def _compile(program, name, topology):
    # A v4 chip has two cores, which must be configured to work as one (megacore).
    options = {"chip_config_name": "megacore"} if name == "v4" else {}
    try:
        slice_ = topologies.get_topology_desc(topology, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"`topology` must be a slice that there is. Received: topology={topology!r} ({error})"
        ) from error
    devices = tuple(slice_.devices)
    compile_options = xla_client.CompileOptions()
    compile_options.num_replicas, compile_options.num_partitions = len(devices), 1
    ids = np.arange(len(devices)).reshape(-1, 1)
    compile_options.device_assignment = xla_client.DeviceAssignment.create(ids)
    try:
        return devices[0].client.compile(
            _module(program), xla_client.DeviceList(devices), compile_options
        )
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise DoesNotFit(*_shortage(str(error), topology)) from error


def _module(program):
    """Returns the program as a module whose new state aliases (donates) the old one."""
    with mlir.make_ir_context():
        module = ir.Module.parse(program.module)
        main = next(f for f in module.body.operations if f.attributes["sym_name"].value == "main")
        aliases = []
        for index in range(len(main.arguments)):
            attributes = (
                main.arg_attrs[index] if "arg_attrs" in main.attributes else ir.DictAttr.get({})
            )
            new = {item.name: item.attr for item in attributes}
            if index < len(program.state):
                result = ir.IntegerAttr.get(
                    ir.IntegerType.get_signless(32), len(program.results) + index
                )
                new["tf.aliasing_output"] = result
            aliases.append(ir.DictAttr.get(new))
        main.arg_attrs = ir.ArrayAttr.get(aliases)
    return module


def _shortage(message, topology):
    """Returns an error message and the largest buffers, from libtpu's message."""
    used = re.search(r"Used (\S+) of (\S+) hbm", message)
    needed = f"{used[1]} of {used[2]}" if used else f"more ({message.splitlines()[0]})"
    arguments = re.search(r"arguments +(\S+)", message)
    largest = [f"{arguments[1]} weights, optimizer and batch"] if arguments else []
    entry = r"\d+\. Size: (\S+)\n(?:\s+Operator: (.*)\n)?\s+Shape: (\S+)"
    for size, operator, shape in re.findall(entry, message):
        name = re.search(r'op_name="([^"]*)"', operator)
        largest.append(f"{size} {shape}{' of ' + name[1] if name else ''}")
    return f"The step does not fit a chip of {topology}: it needs {needed}.", largest
