"""Operations of matmuls are counted from their shapes, however the compiler has written them."""

import math

import pytest

from limoe_tf.tpu import hlo, operations


def module_of(result, operands, line):
    """A program with one instruction `m`, whose operands have the given shapes."""
    shapes = [f"  %p.{i} = {shape} parameter({i})" for i, shape in enumerate(operands)]
    lines = ["ENTRY %main () -> f32[] {", *shapes, f"  ROOT %m = {result} {line}", "}"]
    module = hlo.read("\n".join(lines))
    computation = module.computations["main"]
    return computation, computation.instructions["m"]


@pytest.mark.parametrize(
    "result, left, right, rest, expected",
    [
        # A table of 7 x 3 by one of 3 x 5.
        ((7, 5), (7, 3), (3, 5), "dim_labels=bf_io->bf", 2 * 7 * 3 * 5),
        # Tokens [B, N, D] = [2, 7, 3] by weights 3 x 5: a window of one along N.
        (
            (2, 7, 5), (2, 7, 3), (3, 5, 1), "window={size=1}, dim_labels=b0f_io0->b0f",
            2 * 2 * 7 * 3 * 5,
        ),
        # The gradient of these weights: summed over B as features and over N in one window.
        (
            (3, 5, 1), (2, 7, 3), (2, 7, 5), "window={size=7}, dim_labels=f0b_i0o->bf0",
            2 * 3 * 5 * 2 * 7,
        ),
        # A batch of 4 x 6 matmuls of 7 x 3 by 3 x 5.
        (
            (4, 6, 7, 5), (4, 6, 7, 3), (4, 6, 5, 3),
            "window={size=4x6 stride=3x5 lhs_dilate=4x6}, dim_labels=01bf_01oi->01bf",
            4 * 6 * 2 * 7 * 3 * 5,
        ),
        # Nine windows of 3 over 9 entries padded by one on each side: the outer two meet padding.
        (
            (1, 9, 5), (1, 9, 2), (3, 2, 5), "window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f",
            2 * 5 * 2 * (9 * 3 - 2),
        ),
    ],
)  # fmt: skip
def test_a_convolution_does_without_padding_and_holes(result, left, right, rest, expected):
    shapes = [f"bf16[{','.join(map(str, shape))}]" for shape in (result, left, right)]
    found = module_of(shapes[0], shapes[1:], f"convolution(%p.0, %p.1), {rest}")
    assert operations.of_convolution(*found) == expected


def test_a_dot_sums_over_the_contracted_axes():
    line = "dot(%p.0, %p.1), lhs_contracting_dims={0,2}, rhs_contracting_dims={0,1}"
    found = module_of("f32[3,5]", ["f32[2,3,7]", "f32[2,7,5]"], line)
    assert operations.of_dot(*found) == 2 * 3 * 5 * math.prod((2, 7))
