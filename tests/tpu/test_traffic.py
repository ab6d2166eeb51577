"""Bytes to and from HBM are those that a program must move, by arithmetic."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from limoe_tf.tpu import hlo, operations, traffic

# In each line the only arrays of HBM are those without S(1).
HLO = """HloModule made_up

%picked (p.0: bf16[64,256], p.1: s32[32]) -> bf16[32,256] {
  %p.0 = bf16[64,256]{1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = s32[32]{0:T(128)} parameter(1)
  ROOT %g = bf16[32,256]{1,0:T(8,128)(2,1)} gather(%p.0, %p.1), slice_sizes={1,256}
}

%taken (q.0: f32[64,128], q.1: s32[]) -> f32[8,128] {
  %q.0 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %q.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %same = f32[64,128]{1,0:T(8,128)} bitcast(%q.0)
  ROOT %part = f32[8,128]{1,0:T(8,128)} dynamic-slice(%same, %q.1, %zero)
}

%changed (r.0: f32[64,128], r.1: s32[], r.2: f32[64,128]) -> f32[64,128] {
  %r.0 = f32[64,128]{1,0:T(8,128)} parameter(0)
  %r.1 = s32[] parameter(1)
  %r.2 = f32[64,128]{1,0:T(8,128)} parameter(2)
  %zero.1 = s32[] constant(0)
  %part.1 = f32[8,128]{1,0:T(8,128)} fusion(%r.2, %r.1), kind=kLoop, calls=%taken
  ROOT %update = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%r.0, %part.1, %r.1, %zero.1)
}

%body (state: (s32[], f32[64,128], f32[64,128])) -> (s32[], f32[64,128], f32[64,128]) {
  %state = (s32[], f32[64,128]{1,0:T(8,128)}, f32[64,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:S(6)} get-tuple-element(%state), index=0
  %old = f32[64,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %from = f32[64,128]{1,0:T(8,128)} get-tuple-element(%state), index=2
  %new = f32[64,128]{1,0:T(8,128)} fusion(%old, %i, %from), kind=kLoop, calls=%changed
  ROOT %next = (s32[], f32[64,128], f32[64,128]) tuple(%i, %new, %from)
}

%condition (state.1: (s32[], f32[64,128], f32[64,128])) -> pred[] {
  %limit = s32[] constant(5)
  %state.1 = (s32[], f32[64,128]{1,0:T(8,128)}, f32[64,128]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:S(6)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:S(6)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: bf16[64,256], b: s32[32]) -> f32[64,128] {
  %a = bf16[64,256]{1,0:T(8,128)(2,1)} parameter(0)
  %b = s32[32]{0:T(128)S(1)} parameter(1)
  %c = f32[3,130]{1,0:T(8,128)} convert(%b), metadata={op_name="x/block_01/moe/router/Cast"}
  %d = bf16[256,64]{0,1:T(8,128)} bitcast(%a)
  %f = bf16[32,256]{1,0:T(8,128)(2,1)S(1)} fusion(%a, %b), calls=%picked
  %s = ((f32[3,130]{1,0:T(8,128)}), f32[2,130]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%c)
  %k = (f32[3,130]{1,0:T(8,128)S(1)}, f32[3,130]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%c)
  %e = f32[64,128]{1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %t = (s32[], f32[64,128], f32[64,128]) tuple(%b, %e, %e)
  %w = (s32[], f32[64,128], f32[64,128]) while(%t), condition=%condition, body=%body
  ROOT %out = f32[64,128]{1,0:T(8,128)} get-tuple-element(%w), index=1
}
"""


def test_what_lies_on_the_chip_does_not_count_and_a_loop_does_as_often_as_it_runs():
    module = hlo.read(HLO)
    found = {one.instruction.name: one for one in traffic.moved(module) if one.bytes}
    assert {name: (one.times, one.bytes) for name, one in found.items()} == {
        # 3 x 130 float32 fill two tiles of 8 x 128.
        "c": (1, 2 * 8 * 128 * 4),
        # Each of 32 indices touches 8 rows of 256 bfloat16.
        "f": (1, 32 * 8 * 256 * 2),
        # The sources are in HBM, the copies are not: 2 x 130 take two tiles as well.
        "s": (1, 2 * 8 * 128 * 4),
        "k": (1, 2 * 8 * 128 * 4),
        # Five times 8 x 128 float32 are read, and written where others lie.
        "new": (5, 5 * 2 * 8 * 128 * 4),
    }
    assert found["f"].around == 32 * 7 * 256 * 2
    assert traffic.unknown_loops(module) == []


def test_a_loop_whose_trips_are_not_written_counts_once_and_is_named():
    unknown = hlo.read(HLO.replace("s32[] constant(5)", "s32[] add(%i.1, %i.1)"))
    assert traffic.unknown_loops(unknown) == ["w"]
    assert {one.times for one in traffic.moved(unknown)} == {1}


@pytest.fixture(scope="module")
def compiled():
    """A function from a function and its arguments to its Module and the compiler's count."""
    slice_ = topologies.get_topology_desc("v5e:2x2", platform="tpu")
    one = jax.sharding.SingleDeviceSharding(slice_.devices[0])

    def compile_for_a_chip(function, *shapes):
        arguments = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
        lowered = jax.jit(function, in_shardings=one, out_shardings=one).lower(*arguments)
        executable = lowered.compile()
        return hlo.read(executable.as_text()), executable.cost_analysis()

    return compile_for_a_chip


def total(module):
    return sum(one.bytes for one in traffic.moved(module))


# v5e has 128 MiB of memory on the chip: each array of the following is larger.
def test_an_elementwise_pass_reads_and_writes_once(compiled):
    module, _ = compiled(lambda x: 2 * x + 1, ((16_384, 8192), jnp.float32))
    assert total(module) == 2 * 16_384 * 8192 * 4


def test_a_matmul_reads_both_operands_and_writes_its_result(compiled):
    shapes = ((16_384, 8192), jnp.bfloat16), ((8192, 16_384), jnp.bfloat16)
    module, _ = compiled(jnp.matmul, *shapes)
    assert total(module) == (16_384 * 8192 + 8192 * 16_384 + 16_384**2) * 2
    assert operations.repeated(module) == 0


def test_a_loop_moves_and_computes_in_each_of_its_trips(compiled):
    shapes = ((24, 2048, 4096), jnp.bfloat16), ((4096, 4096), jnp.bfloat16)
    module, cost = compiled(lambda xs, w: jax.lax.map(lambda x: x @ w, xs), *shapes)
    # A slice is read, one is written, and the weights are read anew.
    moved = 24 * (2 * 2048 * 4096 + 4096 * 4096) * 2
    assert total(module) == pytest.approx(moved, rel=1e-4)  # Beside it, the counter.
    flops = 24 * 2 * 2048 * 4096 * 4096
    assert cost["flops"] == pytest.approx(flops / 24, rel=1e-4)
    assert cost["flops"] + operations.repeated(module) == pytest.approx(flops, rel=1e-4)


def test_a_gather_touches_tiles(compiled):
    shapes = ((262_144, 1024), jnp.bfloat16), ((65_536,), jnp.int32)
    module, _ = compiled(lambda table, i: jnp.take(table, i, axis=0, mode="clip"), *shapes)
    rows = 65_536 * 1024 * 2
    # Of each tile of 8 rows one is wanted; the rows are written; the indices are 0.1 % of it.
    assert total(module) == pytest.approx((8 + 1) * rows, rel=2e-3)
    assert sum(one.around for one in traffic.moved(module)) == 7 * rows


def test_what_stays_on_the_chip_is_not_hbm(compiled):
    square = ((1024, 1024), jnp.bfloat16)
    module, cost = compiled(lambda a, b, c: jnp.tanh(a @ b) @ c, square, square, square)
    assert total(module) == pytest.approx(4 * 1024 * 1024 * 2, rel=1e-3)
    assert cost["bytes accessed"] > 1.4 * total(module)
