"""The text of an optimized program, read: its computations, instructions, arrays and loops."""

import math
import re
from typing import NamedTuple

# Bytes of one element, by the name of its dtype in HLO.
DTYPE_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8,
}  # fmt: skip
_ARRAY = re.compile(
    rf"\b({'|'.join(DTYPE_BYTES)})\[([\d,]*)\](?:\{{([\d,]*)(?::(?:T\(([\d,]*)\))?([^}}]*))?\}})?"
)
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")


class Array(NamedTuple):
    """An array of a program.

    Attributes:
      dtype: its name in HLO.
      shape: tuple.
      order: tuple of its axes, the fastest first; empty if not given.
      tile: tuple of the sides of a tile, of the slowest axis first; empty if there are none.
      in_hbm: False if it lies elsewhere, as in the memory on the chip.
    """

    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    in_hbm: bool = True

    @property
    def size(self) -> int:
        """Bytes that it takes, its shape padded to tiles."""
        padded = list(self.shape)
        for axis, side in zip(self.order, reversed(self.tile)):
            padded[axis] = math.ceil(padded[axis] / side) * side
        return math.prod(padded) * DTYPE_BYTES[self.dtype]


class Instruction(NamedTuple):
    """An instruction of a computation.

    Attributes:
      name: of the instruction and of its result.
      kind: such as "fusion".
      arrays: tuple of the Arrays of its result, of nested tuples one after another.
      operands: tuple of names.
      line: its text.
    """

    name: str
    kind: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    line: str

    @property
    def operation(self) -> str:
        """The name of the operation of the model that it comes from; "" if there is none."""
        found = re.search(r'op_name="([^"]*)"', self.line)
        return found[1] if found else ""

    def attribute(self, name: str) -> str | None:
        """Returns a name, or the numbers in braces, behind `name=`; None if there are none."""
        found = re.search(rf"\b{name}=(?:%?([\w.\-]+)|\{{([^}}]*)\}})", self.line)
        return (found[1] or found[2] or "") if found else None


class Computation(NamedTuple):
    """A computation: its Instructions by name, and the name of the one that is its result."""

    instructions: dict[str, Instruction]
    root: str

    def parameter(self, number: int) -> str:
        """Returns the name of a parameter."""
        wanted = f"parameter({number})"
        found = self.instructions.values()
        return next(i.name for i in found if i.kind == "parameter" and wanted in i.line)

    def users(self, name: str) -> list[tuple[Instruction, int]]:
        """Returns the instructions that take a result, each with the operand's place."""
        return [
            (one, place)
            for one in self.instructions.values()
            for place, operand in enumerate(one.operands)
            if operand == name
        ]


class Module(NamedTuple):
    """A program: Computations by name, and the name of the one with which it begins."""

    computations: dict[str, Computation]
    entry: str

    def called(self, instruction: Instruction) -> Computation | None:
        """Returns the computation of a fusion; None for other instructions."""
        fused = instruction.kind == "fusion"
        return self.computations[instruction.attribute("calls")] if fused else None

    def trips(self, loop: Instruction) -> int | None:
        """Returns how often the body of a `while` runs; None if the text does not say it."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.line)
        if known:
            return int(known[1])
        condition = self.computations[loop.attribute("condition")]
        test = condition.instructions[condition.root]
        limit = condition.instructions[test.operands[-1]] if test.operands else test
        number = re.search(r" constant\((\d+)\)", limit.line)
        # The compiler counts from 0 by ones.
        counted = test.kind == "compare" and test.attribute("direction") == "LT"
        return int(number[1]) if counted and number else None


def read(text: str) -> Module:
    """Returns the Module of a program's text."""
    computations, entry, name = {}, "", None
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            name, found, root = head[2], {}, ""
            entry = name if head[1] else entry
        elif line.startswith("}") and name:
            computations[name], name = Computation(found, root), None
        elif name and (match := _LINE.match(line)):
            found[match[2]] = Instruction(
                match[2], match[4], arrays(match[3]), _operands(line[match.end() :]), line
            )
            root = match[2] if match[1] else root
    return Module(computations, entry)


def arrays(shape: str) -> tuple[Array, ...]:
    """Returns the Arrays of a shape's text, which may be that of a tuple."""
    return tuple(
        Array(dtype, *map(_numbers, (shape, order, tile)), not re.search(r"S\([1-9]\d*\)", memory))
        for dtype, shape, order, tile, memory in _ARRAY.findall(shape)
    )


def _numbers(text):
    return tuple(int(number) for number in text.split(",") if number)


def _operands(text):
    return tuple(re.findall(r"%([\w.\-]+)", text.split(")", 1)[0]))
