"""Bytes moved by each part of a compiled TPU program, from the text of its HLO.

The TPU compiler counts the bytes of a whole program only. Here they are counted per instruction in
the same way, as far as its totals show it: what an instruction reads and writes, with shapes padded
to tiles, in any memory; for each index of a gather, the tiles that are touched.
"""

import collections
import math
import re
from typing import NamedTuple

from limoe_tf.tpu.collectives import DTYPE_BYTES

_ARRAY = re.compile(
    rf"\b({'|'.join(DTYPE_BYTES)})\[([\d,]*)\](?:\{{([\d,]*)(?::(?:T\(([\d,]*)\))?[^}}]*)?\}})?"
)
_LINE = re.compile(r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<result>.*?) (?P<kind>[\w\-]+)\(")
# They move nothing: names for values, and the ends of asynchronous operations.
_FREE = {
    "bitcast", "get-tuple-element", "tuple", "parameter", "constant", "copy-done", "slice-done",
    "all-reduce-done", "all-gather-done", "custom-call",
}  # fmt: skip
# Copies between HBM and the memory on the chip, ahead of their use; a slice counts as three.
_AHEAD = {"copy-start": 2, "slice-start": 3}

# Parts, by a pattern of the operation's name; the first match counts.
PARTS = {
    "router": r"/router",
    "experts": r"/experts",
    "assign": r"(^|/)assign(_\d+)?/",
    "dispatch": r"(^|/)dispatch(_\d+)?/",
    "combine": r"(^|/)combine(_\d+)?/",
    "auxiliary losses": r"(^|/)observe(_\d+)?/",
    "rest of the sparse layers": r"/moe",
    "dense MLP": r"/mlp",
    "norms": r"norm(_\d+)?/",
    "attention": r"/attention",
    "embeddings": r"_embed",
}
ALL_TO_ALL, AHEAD, REST = "all-to-all", "prefetch copies", "optimizer and rest"


class Instruction(NamedTuple):
    """An instruction of a program.

    Attributes:
      name: of the instruction.
      kind: such as "fusion".
      operation: name of the operation that it comes from; "" if there is none.
      bytes: that it moves.
      around: those of them in the tiles of a gather, but not in the gathered rows.
    """

    name: str
    kind: str
    operation: str
    bytes: int
    around: int

    @property
    def part(self) -> str:
        """The name of the part of the model that it belongs to."""
        if self.kind.startswith("all-to-all"):
            return ALL_TO_ALL
        if self.kind in _AHEAD:
            return AHEAD
        fits = (part for part, pattern in PARTS.items() if re.search(pattern, self.operation))
        return next(fits, REST)


def by_part(hlo: str) -> dict[str, int]:
    """Returns a dict of bytes by part, the largest first, from the text of an optimized program."""
    sums = collections.Counter()
    for instruction in instructions(hlo):
        sums[instruction.part] += instruction.bytes
    return dict(sums.most_common())


def instructions(hlo: str) -> list[Instruction]:
    """Returns the Instructions of a program's entry; those within a fusion are part of it."""
    gathers, shapes, found = _gathers(hlo), {}, []
    for line in hlo[hlo.index("\nENTRY") :].splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        shapes[match["name"]] = match["result"]
        kind, operation = match["kind"], re.search(r'op_name="([^"]*)"', line)
        if kind not in _FREE:
            inputs = [shapes.get(name, "") for name in _operands(line[match.end() :])]
            gather = gathers.get(_called(line))
            found.append(
                Instruction(
                    name=match["name"],
                    kind=kind,
                    operation=operation[1] if operation else "",
                    bytes=_moved(kind, match["result"], inputs, gather),
                    around=gather.tiles - gather.rows if gather else 0,
                )
            )
    return found


def _moved(kind, result, inputs, gather):
    if kind in _AHEAD:
        source, copy = _ARRAY.findall(result)[:2]
        return _AHEAD[kind] * _size(copy if kind == "slice-start" else source)
    sizes = [sum(map(_size, _ARRAY.findall(shape))) for shape in inputs]
    if gather:
        sizes[gather.operand] = gather.tiles
    return sum(map(_size, _ARRAY.findall(result))) + sum(sizes)


def _size(array):
    """Returns the bytes of an array whose shape is padded to tiles."""
    dtype, dimensions, order, tile = array
    padded = [int(d) for d in dimensions.split(",") if d]
    minor = [int(axis) for axis in order.split(",") if axis]
    tiles = [int(side) for side in tile.split(",") if side]
    for axis, side in zip(minor, reversed(tiles)):
        padded[axis] = math.ceil(padded[axis] / side) * side
    return math.prod(padded) * DTYPE_BYTES[dtype]


class _Gather(NamedTuple):
    """What a fused gather reads: the parameter's number, bytes of the rows and of their tiles."""

    operand: int
    rows: int
    tiles: int


def _gathers(hlo):
    """Returns the `_Gather`s of a program, by computation."""
    found, computation, parameters = {}, None, {}
    for line in hlo.splitlines():
        if line.startswith("%"):
            computation, parameters = line[1:].split(" ")[0], {}
        parameter = re.match(r"\s+%?([\w.\-]+) = (\S+) parameter\((\d+)\)", line)
        if parameter:
            parameters[parameter[1]] = (parameter[2], int(parameter[3]))
        gather = re.match(r"\s+(?:ROOT )?%\S+ = (\S+) gather\(%([\w.\-]+),", line)
        if gather and gather[2] in parameters:
            shape, number = parameters[gather[2]]
            dtype, _, order, tile = _ARRAY.findall(shape)[0]
            part = re.search(r"slice_sizes=\{([\d,]*)\}", line)[1]
            taken = [int(d) for d in _ARRAY.findall(gather[1])[0][1].split(",") if d]
            count = math.prod(taken) // math.prod(int(d) for d in part.split(","))
            row = _size((dtype, part, "", ""))
            tiles = _size((dtype, part, order, tile))
            found[computation] = _Gather(number, count * row, count * tiles)
    return found


def _called(line):
    called = re.search(r"\bcalls=%([\w.\-]+)", line)
    return called[1] if called else None


def _operands(text):
    return re.findall(r"%([\w.\-]+)", text.split(")", 1)[0])
