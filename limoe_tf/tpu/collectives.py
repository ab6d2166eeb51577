"""Finds the collectives of a program, and the bytes they send, in the text of its HLO."""

import re
from typing import NamedTuple

from jax._src.lib import xla_client

from limoe_tf.tpu.hlo import DTYPE_BYTES

KINDS = ("all-to-all", "all-reduce", "all-gather", "reduce-scatter", "collective-permute")

_LINE = re.compile(
    r"^\s*(?:ROOT )?%?[\w.\-]+ = (?P<result>.*?) "
    r"(?P<kind>" + "|".join(KINDS) + r")(?P<start>-start)?\("
)
_ARRAY = re.compile(r"\b(" + "|".join(DTYPE_BYTES) + r")\[([\d,]*)\]")
_HOST = re.compile(r"\b(infeed|outfeed|send|recv|send-done|recv-done)\(|[Cc]allback|SendToHost")


class Collective(NamedTuple):
    """One collective.

    Attributes:
      kind: one of `KINDS`.
      shapes: tuple of (dtype, dimensions) of its result on each replica.
      group: number of replicas that take part in it together.
    """

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    group: int

    @property
    def size(self) -> int:
        """Bytes of its result on each replica."""
        total = 0
        for dtype, dimensions in self.shapes:
            count = 1
            for dimension in dimensions:
                count *= dimension
            total += count * DTYPE_BYTES[dtype]
        return total

    @property
    def sent(self) -> float:
        """Bytes that each replica must send at least; a ring algorithm sends no more."""
        share = (self.group - 1) / self.group
        factors = {
            "all-to-all": share,
            "all-gather": share,
            "all-reduce": 2 * share,
            "reduce-scatter": self.group - 1,
            "collective-permute": 1,
        }
        return self.size * factors[self.kind]


def find(hlo: str, *, num_replicas: int) -> list[Collective]:
    """Returns the Collectives of a program.

    Args:
      hlo: text of an HLO module.
      num_replicas: number of replicas that run it.
    """
    found = []
    for line in hlo.splitlines():
        match = _LINE.match(line)
        if match:
            shapes = [
                (dtype, tuple(int(d) for d in dimensions.split(",") if d))
                for dtype, dimensions in _ARRAY.findall(match["result"])
            ]
            if match["start"]:  # Its result begins with the operands.
                shapes = shapes[len(shapes) // 2 :]
            found.append(Collective(match["kind"], tuple(shapes), _group(line, num_replicas)))
    return found


def text_of(module: bytes) -> str:
    """Returns a serialized StableHLO module as the text of HLO, before optimization."""
    return xla_client._xla.mlir.mlir_module_to_xla_computation(module).as_hlo_text()


def host_calls(hlo: str) -> list[str]:
    """Returns the lines of a program that communicate with the host."""
    return [line.strip() for line in hlo.splitlines() if _HOST.search(line.split("metadata=")[0])]


def _group(line, num_replicas):
    explicit = re.search(r"replica_groups=\{\{([\d,]+)\}", line)
    if explicit:
        return explicit[1].count(",") + 1
    compact = re.search(r"replica_groups=\[(\d+),(\d+)\]", line)
    return int(compact[2]) if compact else num_replicas
