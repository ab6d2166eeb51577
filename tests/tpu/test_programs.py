"""The bytes of a compiled program are told apart by part, and add up to the compiler's count."""

import pytest

from benchmarks import hlo_bytes, tpu_evaluation, tpu_programs
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.tpu import compile, lower
from limoe_tf.tpu.stateless import compiled_without_memory
from tests.tpu import cases

HLO = """HloModule made_up

%fused (p.0: bf16[64,256], p.1: s32[32]) -> bf16[32,256] {
  %p.0 = bf16[64,256]{1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = s32[32]{0:T(128)} parameter(1)
  ROOT %g = bf16[32,256]{1,0:T(8,128)(2,1)} gather(%p.0, %p.1), offset_dims={1}, slice_sizes={1,256}
}

ENTRY %main (a: bf16[64,256]) -> f32[] {
  %a = bf16[64,256]{1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[32]{0:T(128)} parameter(1)
  %c = f32[3,130]{1,0:T(8,128)} convert(%i), metadata={op_name="x/block_01/moe/router/Cast"}
  %b = bf16[256,64]{0,1:T(8,128)} bitcast(%a)
  %f = bf16[32,256]{1,0:T(8,128)(2,1)} fusion(%a, %i), calls=%fused, metadata={op_name="dispatch/g"}
  %s = ((f32[8,128]{1,0}), f32[2,128]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%c), slice={[0:2]}
  ROOT %t = bf16[32,256]{1,0} all-to-all(%f), metadata={op_name="x/moe/experts/AllToAll"}
}
"""


def test_bytes_are_those_of_tiles():
    found = {one.name: (one.part, one.bytes) for one in hlo_bytes.instructions(HLO)}
    assert found == {
        # 3 x 130 float32 fill two tiles of 8 x 128; the 32 integers fill one of 128.
        "c": ("router", 2 * 8 * 128 * 4 + 128 * 4),
        # Each of 32 indices touches 8 rows; the result has 32, and the indices are read.
        "f": ("dispatch", 32 * 8 * 256 * 2 + 32 * 256 * 2 + 128 * 4),
        "s": (hlo_bytes.AHEAD, 3 * 2 * 128 * 4),
        "t": (hlo_bytes.ALL_TO_ALL, 2 * 32 * 256 * 2),
    }


@pytest.fixture(scope="module")
def step():
    mesh = ExpertMesh("expert:4", spans="replicas")
    model = compiled_without_memory(
        lambda: cases.make_model("bfloat16", mesh), cases.make_optimizer("bfloat16")
    )
    return compile.compile_step(lower.lower(model, global_batch=16, mesh=mesh), "v5e:2x2")


def test_every_part_of_a_sparse_layer_is_found_and_the_sum_is_the_compilers(step):
    parts = hlo_bytes.by_part(step.hlo)
    wanted = {"router", "experts", "assign", "dispatch", "combine", "auxiliary losses"}
    assert wanted | {hlo_bytes.ALL_TO_ALL, "attention", "norms"} <= set(parts)
    assert sum(parts.values()) == pytest.approx(step.bytes_moved, rel=0.1)


def test_the_table_holds_ratios_and_parts(step):
    sparse = tpu_programs.describe(step)
    dense = {**sparse, "bytes": sparse["bytes"] / 2, "parts": {"attention": sparse["bytes"] / 2}}
    row = tpu_programs.Row("S/16", "v5e:2x2", 16, ("sparse",) * 2)
    record = {**row._asdict(), "chips": 4, "sparse": sparse, "dense": dense}
    lines = tpu_programs.markdown([record]).splitlines()
    assert lines[2].startswith("| S/16, 2 blocks@v5e:2x2, sparse | 4 | 4 | ")
    assert lines[4].split(" | ")[3:5] == ["1.000", "2.000"]
    assert lines[-1].split(" | ")[-1] == "100.0% |"


def test_embedding_images_needs_no_texts_and_its_operations_are_compared(step):
    mesh = ExpertMesh("expert:4", spans="replicas")
    model = compiled_without_memory(
        lambda: cases.make_model("float32", mesh), cases.make_optimizer("float32")
    )
    program = lower.lower(model, global_batch=16, mesh=mesh, function=tpu_evaluation.embed)
    assert [(array.name, array.shape) for array in program.results] == [("embedding", (4, 12))]
    sparse = tpu_evaluation.describe(step)
    record = {"size": "S/16", "topology": "v5e:2x2", "chips": 4, "sparse": sparse}
    record["dense"] = {**sparse, "flops": sparse["flops"] / 2}
    assert tpu_evaluation.markdown([record]).splitlines()[-1].split(" | ")[2] == "2.000"
