"""The TPU compiler takes the step, and what it says is read rightly."""

import collections

import pytest

from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.tpu import chips, collectives, compile, lower, summary
from limoe_tf.tpu.stateless import compiled_without_memory
from tests.tpu import cases

HLO = """
  %a.1 = f32[8,1,16]{2,0,1} all-to-all(f32[8,1,16] %x), replica_groups={{0,1},{2,3}}, dimensions={0}
  %b = (bf16[4]{0}, f32[2,3]{1,0}) all-reduce(bf16[4] %y, f32[2,3] %z), replica_groups=[2,4]<=[8]
  %c = (f32[5]{0}, f32[10]{0}) all-gather-start(f32[5] %w), metadata={op="send(x)"}
  %d = f32[10]{0} all-gather-done((f32[5]{0}, f32[10]{0}) %c)
  %e = f32[] custom-call(f32[] %x), custom_call_target="SendToHost"
"""


def lowered(case, mesh, global_batch):
    mesh = ExpertMesh(mesh, spans="replicas")
    model = compiled_without_memory(
        lambda: cases.make_model(case, mesh), cases.make_optimizer(case)
    )
    return model, lower.lower(model, global_batch=global_batch, mesh=mesh)


def test_collectives_are_read_from_the_text():
    found = collectives.find(HLO, num_replicas=8)
    assert [(c.kind, c.group, c.size) for c in found] == [
        ("all-to-all", 2, 512),  # 8 * 1 * 16 float32
        ("all-reduce", 4, 32),  # 4 bfloat16 and 2 * 3 float32
        ("all-gather", 8, 40),  # 10 float32
    ]
    # To one of two: half. Around a ring of four, there and back: 2 * 3/4. To seven of eight.
    assert [c.sent for c in found] == [256, 48, 35]
    assert [line[:2] for line in collectives.host_calls(HLO)] == ["%e"]


@pytest.fixture(scope="module")
def compiled():
    model, program = lowered("bfloat16", "data:2;expert:4", 16)
    return model, program, compile.compile_step(program, "v5e:2x4")


def test_a_step_is_compiled_for_a_slice(compiled):
    model, program, step = compiled
    assert step.num_chips == 8 and step.flops > 0 and step.hbm_bytes > 0
    # Arrays are padded to tiles, so that they take more than their entries; and old state gives its
    # place to new.
    assert step.arguments > sum(4 * _size(a.shape) for a in program.state if a.dtype == "float32")
    count = collections.Counter(c.kind for c in step.collectives)
    assert count["all-to-all"] == 8
    assert not count["all-gather"] and not collectives.host_calls(step.hlo)
    assert "input_output_alias" in step.hlo.splitlines()[0]
    lines = summary.lines(step, useful_flops=summary.model_flops(model, 16))
    assert "of 16 GiB" in lines[1]
    assert f"ms, bound by {max(step.bounds, key=step.bounds.get)}; model" in lines[-1]
    assert step.unknown_loops == ()


def _size(shape):
    count = 1
    for side in shape:
        count *= side
    return count


def test_the_roofline_is_its_slowest_part_and_the_network():
    exchange = collectives.Collective("all-to-all", (("f32", (50_000_000,)),), 2)
    made_up = compile.Compiled("v5e:2x4", 8, 2, 1, 197e12, 2 * 819e9, [exchange], "")
    assert made_up.bounds == pytest.approx({"computing": 1, "HBM": 2, "network": 0.0005})
    # One second of computing goes on within two of reading; 100 MB at 200 GB/s come on top.
    assert made_up.seconds == pytest.approx(2 + 0.0005)
    assert made_up.utilisation(8 * 197e12) == pytest.approx(1 / 2.0005)


@pytest.mark.parametrize(
    "topology, message",
    [
        ("v9:2x2", "must be one of 'v4', 'v5e', 'v5p', 'v6e'. Received: .*'v9'"),
        ("v5e", "2 sides, as 'v5e:4x8' does"),
        ("v5p:4x4", "3 sides"),
        ("v5e:3x5", "needs as many chips. Received: .* with 15"),
    ],
)
def test_a_slice_that_is_none_is_refused(compiled, topology, message):
    with pytest.raises(ValueError, match=message):
        compile.compile_step(compiled[1], topology)


def test_a_batch_that_cannot_be_divided_is_refused():
    with pytest.raises(ValueError, match="divisible by the 8 replicas .*global_batch=12"):
        lowered("float32", "data:2;expert:4", 12)


def test_a_step_that_does_not_fit_names_its_largest_buffers():
    message = """RESOURCE_EXHAUSTED: Ran out of memory. Used 48.00G of 15.75G hbm.
Total hbm usage >= 48.25G:
    reserved        258.00M
    arguments        40.00G

  Largest program allocations in hbm:

  1. Size: 8.00G
     Operator: op_type="Mul" op_name="block_01/mul"
     Shape: f32[16384,131072]{0,1:T(8,128)}
  2. Size: 512B
     Shape: s32[128]{0}
"""
    text, largest = compile._shortage(message, "v5e:2x4")
    assert "needs 48.00G of 15.75G" in text
    assert largest == [
        "40.00G weights, optimizer and batch",
        "8.00G f32[16384,131072]{0,1:T(8,128)} of block_01/mul",
        "512B s32[128]{0}",
    ]
    assert chips.read_topology("v5p:4x4x2") == ("v5p", 32)
