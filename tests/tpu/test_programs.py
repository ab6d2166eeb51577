"""The bytes of a compiled program are told apart by part, and add up to those of the program."""

import pytest

from benchmarks import hlo_bytes, tpu_evaluation, tpu_programs
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.tpu import compile, lower
from limoe_tf.tpu.stateless import compiled_without_memory
from tests.tpu import cases

HLO = """HloModule made_up

ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[8,128]{1,0:T(8,128)} negate(%a), metadata={op_name="x/block_01/attention_norm/sub"}
  %c = f32[8,128]{1,0:T(8,128)} negate(%b), metadata={op_name="gradient/x/attention/chunks/while"}
  %d = f32[8,128]{1,0:T(8,128)} negate(%c), metadata={op_name="x/block_01/moe/router/Cast"}
  %s = (f32[8,128]{1,0:S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%d)
  %e = f32[8,128]{1,0:T(8,128)} all-to-all(%d), metadata={op_name="x/moe/experts/AllToAll"}
  ROOT %f = f32[8,128]{1,0:T(8,128)} negate(%e), metadata={op_name="update"}
}
"""


def test_each_instruction_belongs_to_one_part():
    parts, around = hlo_bytes.by_part(HLO)
    once = 8 * 128 * 4
    assert (parts, around) == (
        {
            "norms": 2 * once,
            "attention": 2 * once,
            "router": 2 * once,
            hlo_bytes.ALL_TO_ALL: 2 * once,
            hlo_bytes.REST: 2 * once,
            hlo_bytes.AHEAD: once,
        },
        0,
    )


@pytest.fixture(scope="module")
def step():
    mesh = ExpertMesh("expert:4", spans="replicas")
    model = compiled_without_memory(
        lambda: cases.make_model("bfloat16", mesh), cases.make_optimizer("bfloat16")
    )
    return compile.compile_step(lower.lower(model, global_batch=16, mesh=mesh), "v5e:2x2")


def test_every_part_of_a_sparse_layer_is_found_and_the_sum_is_that_of_the_program(step):
    parts, around = hlo_bytes.by_part(step.hlo)
    wanted = {"router", "experts", "assign", "dispatch", "combine", "auxiliary losses"}
    assert wanted | {hlo_bytes.ALL_TO_ALL, "attention", "norms"} <= set(parts)
    assert sum(parts.values()) == step.hbm_bytes > around >= 0


def test_the_table_holds_ratios_and_parts(step):
    sparse = tpu_programs.describe(step)
    dense = {**sparse, "bytes": sparse["bytes"] / 2, "parts": {"attention": sparse["bytes"] / 2}}
    row = tpu_programs.Row("S/16", "v5e:2x2", 16, ("sparse",) * 2)
    record = {**row._asdict(), "chips": 4, "sparse": sparse, "dense": dense}
    lines = tpu_programs.markdown([record]).splitlines()
    assert lines[2].startswith("| S/16, 2 blocks@v5e:2x2, sparse | 4 | 4 | ")
    assert lines[4].split(" | ")[3:5] == ["1.000", "2.000"]
    assert lines[-2].startswith("| sum | ") and lines[-2].endswith(" | 100.0% |")


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
