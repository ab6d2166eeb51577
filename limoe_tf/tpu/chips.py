"""Published peak numbers of TPU chips, and the topologies of their slices."""

import re
from typing import NamedTuple

from limoe_tf import checks


class Chip(NamedTuple):
    """Peak numbers of one chip.

    Attributes:
      flops: bfloat16 operations per second.
      memory_bytes: of HBM.
      memory_bandwidth: bytes per second to and from HBM.
      network_bandwidth: bytes per second that it can send to its neighbours, in one direction.
      dimensions: number of dimensions of a slice's topology.
      source: where the numbers are published.
    """

    flops: float
    memory_bytes: int
    memory_bandwidth: float
    network_bandwidth: float
    dimensions: int
    source: str


_GB, _GIB = 1e9, 2**30

# The vendor's pages give the interconnect bandwidth of both directions: half of it counts here.
CHIPS = {
    "v4": Chip(275e12, 32 * _GIB, 1228 * _GB, 300 * _GB, 3, "https://arxiv.org/abs/2304.01433"),
    "v5e": Chip(
        197e12, 16 * _GIB, 819 * _GB, 200 * _GB, 2, "https://cloud.google.com/tpu/docs/v5e"
    ),
    "v5p": Chip(
        459e12, 95 * _GIB, 2765 * _GB, 600 * _GB, 3, "https://cloud.google.com/tpu/docs/v5p"
    ),
    "v6e": Chip(
        918e12, 32 * _GIB, 1638 * _GB, 400 * _GB, 2, "https://cloud.google.com/tpu/docs/v6e"
    ),
}


def read_topology(topology: str) -> tuple[str, int]:
    """Returns the name of the chip and the number of chips of a slice.

    Args:
      topology: such as "v5e:4x8" or "v5p:4x4x2".

    Raises:
      TypeError: if it is not a string.
      ValueError: if the chip is not known, or a slice of it has other dimensions.
    """
    if not isinstance(topology, str):
        raise TypeError(f"`topology` must be a string. Received: topology={topology!r}")
    name, _, sides = topology.partition(":")
    checks.one_of("chip of topology", name, tuple(CHIPS))
    wanted = CHIPS[name].dimensions
    if not re.fullmatch(r"[1-9]\d*" + r"x[1-9]\d*" * (wanted - 1), sides):
        example = {2: "4x8", 3: "4x4x2"}[wanted]
        raise ValueError(
            f"`topology` must give a {name} slice {wanted} sides, as '{name}:{example}' does. "
            f"Received: topology={topology!r}"
        )
    count = 1
    for side in sides.split("x"):
        count *= int(side)
    return name, count
