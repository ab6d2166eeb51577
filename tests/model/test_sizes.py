"""The table of named sizes."""

import pytest

from limoe_tf.model import sizes


def test_every_size_is_complete_and_consistent():
    for size in sizes.NAMES:
        values = sizes.constructor_values(size)
        assert len(values["plan"]) == values["depth"]
        assert values["hidden_width"] == 4 * values["width"]
        assert set(values["plan"]) == {"dense", "sparse"}
        if size != "tiny":
            assert size.endswith(f"/{values['patch_size']}")


def test_h14_has_twelve_sparse_blocks_and_block_18_is_one():
    plan = sizes.constructor_values("H/14")["plan"]
    assert plan.count("sparse") == 12
    assert plan[18] == "sparse"


def test_b16_is_sparse_in_the_blocks_that_the_paper_names():
    plan = sizes.constructor_values("B/16")["plan"]
    assert [block for block, word in enumerate(plan) if word == "sparse"] == [1, 3, 5, 7, 9, 11]


def test_an_unknown_size_names_those_there_are():
    with pytest.raises(ValueError, match="`size` must be one of 'tiny', .*'H/14'.*size='H/15'"):
        sizes.constructor_values("H/15")


@pytest.mark.parametrize("blocks, fault", [((12,), "between 0 and 11"), ((1, 1), "once")])
def test_a_plan_of_blocks_that_do_not_exist_is_refused(blocks, fault):
    with pytest.raises(ValueError, match=fault):
        sizes.plan_of(12, blocks)


def test_sparse_blocks_have_one_number_of_experts_or_each_its_own():
    plan = ("dense", "sparse", "dense", "sparse")
    assert sizes.checked_experts(6, plan) == {1: 6, 3: 6}
    assert sizes.checked_experts([6, 4], plan, pools=2) == {1: 3, 3: 2}
    with pytest.raises(ValueError, match=r"one for each of 2 sparse blocks. Received: .*=\(6,\)"):
        sizes.checked_experts((6,), plan)
    with pytest.raises(ValueError, match="`num_experts` must be at least 1. Received: .*=0"):
        sizes.checked_experts((6, 0), plan)
    with pytest.raises(ValueError, match="must be even where each .* Received: num_experts=5"):
        sizes.checked_experts((6, 5), plan, pools=2)


@pytest.mark.parametrize(
    "size, depth, fused, sparse",
    [("VL-MoE-SMALL", 8, 1, [1, 3, 5, 7]), ("VL-MoE-BASE", 12, 2, [1, 3, 5, 7, 9, 11])],
)
def test_sizes_of_vl_moe_are_those_of_the_paper(size, depth, fused, sparse):
    values = sizes.vlmoe_values(size)
    assert (values["depth"], values["fused_blocks"]) == (depth, fused)
    assert [block for block, kind in enumerate(values["plan"]) if kind == "sparse"] == sparse
    assert values["hidden_width"] == 4 * values["width"] == 4 * 64 * values["num_heads"]
    assert (values["patch_size"], values["image_size"]) == (16, 224)


def test_sizes_of_one_model_are_none_of_the_other():
    assert not set(sizes.NAMES) & set(sizes.VLMOE_NAMES)
    with pytest.raises(ValueError, match="`size` must be one of 'vlmoe-tiny', .*size='B/16'"):
        sizes.vlmoe_values("B/16")
    with pytest.raises(ValueError, match="`size` must be one of 'tiny', .*size='VL-MoE-BASE'"):
        sizes.constructor_values("VL-MoE-BASE")


def test_modalities_have_as_many_experts_or_numbers_of_their_own():
    plan = ("sparse", "dense", "sparse")
    found = sizes.experts_of_modalities(4, plan)
    assert found == {"image": {0: 4, 2: 4}, "text": {0: 4, 2: 4}}
    found = sizes.experts_of_modalities({"text": (3, 1), "image": 4}, plan)
    assert found == {"image": {0: 4, 2: 4}, "text": {0: 3, 2: 1}}
    with pytest.raises(ValueError, match="must be a dict of 'image' and 'text'. .*{'text': 3}"):
        sizes.experts_of_modalities({"text": 3}, plan)
    with pytest.raises(ValueError, match="one for each of 2 sparse blocks. Received: .*3, 1, 2"):
        sizes.experts_of_modalities({"text": (3, 1, 2), "image": 4}, plan)
