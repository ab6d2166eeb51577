"""Floating-point operations of matmuls in loops: the compiler counts the body of a loop once."""

import math
import re

from limoe_tf.tpu import traffic
from limoe_tf.tpu.hlo import Computation, Instruction, Module


def repeated(module: Module) -> int:
    """Returns the operations of matmuls beyond the first trip of each loop."""
    return sum(
        (times - 1) * _operations(module, computation, one)
        for computation, one, times in traffic.run(module)
        if times > 1
    )


def _operations(module, computation, one):
    called = module.called(one)
    if called is not None:
        return sum(_operations(module, called, part) for part in called.instructions.values())
    if one.kind == "convolution":
        return of_convolution(computation, one)
    return of_dot(computation, one) if one.kind == "dot" else 0


def of_dot(computation: Computation, dot: Instruction) -> int:
    """Returns the operations of a matmul."""
    left = computation.instructions[dot.operands[0]].arrays[0].shape
    contracted = map(int, dot.attribute("lhs_contracting_dims").split(","))
    return 2 * math.prod(dot.arrays[0].shape) * math.prod(left[axis] for axis in contracted)


def of_convolution(computation: Computation, convolution: Instruction) -> int:
    """Returns the operations of a convolution, without those on padding and dilation.

    On TPUs a matmul is one. The axes of a batch of matmuls are windows over a dilated operand, in
    each of which one entry alone is not a hole.
    """
    left, right = (computation.instructions[name].arrays[0].shape for name in convolution.operands)
    result = convolution.arrays[0].shape
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.line)
    left_axes, right_axes, result_axes = labels.groups()
    spatial = math.prod(
        _met(left[left_axes.index(axis)], result[result_axes.index(axis)], **window)
        for axis, window in zip("0123456789", _windows(convolution))
    )
    outer = math.prod(result[result_axes.index(axis)] for axis in "bf")
    return 2 * outer * right[right_axes.index("i")] * spatial


def _windows(convolution):
    """Returns a dict for each spatial axis: size, stride, padding, dilations."""
    text = convolution.attribute("window") or ""
    named = dict(part.split("=") for part in text.split())
    sizes = named.get("size", "").split("x") if named else []
    names = ("size", "stride", "pad", "lhs_dilate", "rhs_dilate")
    found = []
    for place in range(len(sizes)):
        parts = {name: named[name].split("x")[place] for name in names if name in named}
        found.append({name: int(part.split("_")[0]) for name, part in parts.items()})
    return found


def _met(entries, outputs, *, size, stride=1, pad=0, lhs_dilate=1, rhs_dilate=1):
    """Returns how many entries of the operand all windows along an axis meet together."""
    places = (
        output * stride + offset * rhs_dilate - pad
        for output in range(outputs)
        for offset in range(size)
    )
    last = (entries - 1) * lhs_dilate
    return sum(0 <= place <= last and place % lhs_dilate == 0 for place in places)
