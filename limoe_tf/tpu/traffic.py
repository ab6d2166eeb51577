"""Bytes that each instruction of a compiled program moves to and from HBM.

The compiler's own count is of whatever an instruction reads and writes, in any memory, and of the
body of a loop once. Here arrays on the chip do not count, and a loop counts as often as it runs.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

from limoe_tf.tpu.hlo import Array, Computation, Instruction, Module

# They move nothing: names for values, and the ends of asynchronous operations.
_FREE = {
    "after-all", "bitcast", "get-tuple-element", "tuple", "parameter", "constant", "partition-id",
    "replica-id",
}  # fmt: skip
_FREE_CALLS = ("AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast")
# Copies between HBM and the memory on the chip, ahead of their use.
AHEAD = ("copy-start", "slice-start")


class Moved(NamedTuple):
    """What an instruction moves.

    Attributes:
      instruction: `hlo.Instruction`.
      times: how often it runs.
      bytes: to and from HBM, of all the times.
      around: those of them in the tiles of a gather, but not in the gathered rows.
    """

    instruction: Instruction
    times: int
    bytes: int
    around: int


def moved(module: Module) -> list[Moved]:
    """Returns what each instruction of a program moves; those of a fusion are part of it."""
    found = []
    for computation, one, times in run(module):
        tiles = _bytes(module, computation, one, in_tiles=True)
        rows = _bytes(module, computation, one, in_tiles=False)
        found.append(Moved(one, times, times * tiles, times * (tiles - rows)))
    return found


def unknown_loops(module: Module) -> list[str]:
    """Returns the names of the loops whose trips the program does not say: they count once."""
    loops = (one for _, one, _ in _all(module, module.entry, 1) if one.kind == "while")
    return [loop.name for loop in loops if module.trips(loop) is None]


def run(module: Module) -> Iterator[tuple[Computation, Instruction, int]]:
    """Yields the instructions that run, each with its computation and how often it does.

    Of the branches of a conditional all are there, as if each of them ran.
    """
    for found in _all(module, module.entry, 1):
        if found[1].kind not in ("while", "conditional", "call"):
            yield found


def _all(module, name, times):
    computation = module.computations[name]
    for one in computation.instructions.values():
        yield computation, one, times
        if one.kind == "while":
            yield from _all(module, one.attribute("body"), times * (module.trips(one) or 1))
        elif one.kind == "call":
            yield from _all(module, one.attribute("to_apply"), times)
        elif one.kind == "conditional":
            for branch in _branches(one):
                yield from _all(module, branch, times)


def _branches(conditional):
    listed = conditional.attribute("branch_computations")
    if listed:
        return [name.strip().lstrip("%") for name in listed.split(",")]
    return [conditional.attribute(f"{side}_computation") for side in ("true", "false")]


def _bytes(module, computation, one, *, in_tiles):
    """Returns the bytes that an instruction moves each time; `in_tiles`: whole tiles of gathers."""
    if one.kind in _FREE or one.kind.endswith("-done"):
        return 0
    if any(f'custom_call_target="{name}"' in one.line for name in _FREE_CALLS):
        return 0
    if one.kind in AHEAD:  # The result names both sides: (source, copy) or the other way round.
        both = one.arrays[:2]
        return min(array.size for array in both) * sum(array.in_hbm for array in both)
    reader = _Reader(module, in_tiles)
    total = 0
    for place, name in enumerate(one.operands):
        for array in computation.instructions[name].arrays:
            if array.in_hbm:
                total += reader.read(computation, one, place, array.size)
    written = reader.written(computation, one)
    return total + sum(size for array, size in zip(one.arrays, written) if array.in_hbm)


class _Reader(NamedTuple):
    """Follows an array into what is done with it: of a slice or a gather only a part is read."""

    module: Module
    in_tiles: bool

    def read(self, computation, one, place, whole):
        """Returns the bytes that `one` reads of the operand at `place`, of `whole` bytes."""
        part = self._part(computation, one, place, whole)
        return whole if part is None else part

    def _part(self, computation, one, place, whole):
        """As `read`, but None for the whole."""
        if one.kind in ("dynamic-slice", "slice") and place == 0:
            return one.arrays[0].size
        if one.kind == "dynamic-update-slice" and place == 0:
            return 0  # It is changed in its place.
        if one.kind == "gather" and place == 0:
            return self._gathered(computation, one)
        called = self.module.called(one)
        if called is not None:
            return self._part_of_users(called, called.parameter(place), whole)
        if one.kind == "bitcast" and one.name != computation.root:
            return self._part_of_users(computation, one.name, whole)
        return None

    def _part_of_users(self, computation, name, whole):
        parts = [self._part(computation, *user, whole) for user in computation.users(name)]
        read_in_parts = sum(part for part in parts if part is not None)
        return read_in_parts + (whole if None in parts else 0)

    def _gathered(self, computation, gather):
        """Returns the bytes of the gathered parts, with the rest of the tiles that they touch."""
        table = computation.instructions[gather.operands[0]].arrays[0]
        part = tuple(map(int, gather.attribute("slice_sizes").split(",")))
        count = math.prod(gather.arrays[0].shape) // math.prod(part)
        one = table._replace(shape=part) if self.in_tiles else Array(table.dtype, part)
        return count * one.size

    def written(self, computation, one, *, fused=False):
        """Returns the bytes that `one` writes, for each array of its result."""
        named, called = computation.instructions, self.module.called(one)
        if called is not None:
            return self.written(called, called.instructions[called.root], fused=True)
        if one.kind in ("bitcast", "tuple"):
            parts = [self.written(computation, named[name], fused=fused) for name in one.operands]
            return [size for part in parts for size in part]
        # What a fusion has made itself is not in HBM yet: of that the whole is written.
        if one.kind == "dynamic-update-slice" and (
            not fused or _source(computation, one.operands[0]).kind == "parameter"
        ):
            return [named[one.operands[1]].arrays[0].size]
        return [array.size for array in one.arrays]


def _source(computation, name):
    """Returns the instruction that made an array, behind other names for it."""
    one = computation.instructions[name]
    return _source(computation, one.operands[0]) if one.kind == "bitcast" else one
