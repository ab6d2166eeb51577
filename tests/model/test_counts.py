"""Parameters, FLOPs and bytes of an architecture, against published counts and written-out sums."""

import dataclasses
import math

import numpy as np
import pytest

from limoe_tf.model import counts, sizes
from limoe_tf.model.limoe import Limoe
from limoe_tf.train.optimizer import Adafactor


def architecture(size, *, num_experts=32, dense=False, **changes):
    values = sizes.constructor_values(size)
    if dense:
        values["plan"] = ("dense",) * values["depth"]
    return counts.Architecture(**{**values, "num_experts": num_experts, **changes})


# Millions of parameters: dense, with 8, 16 and 32 experts, active with 32, and in routers with 32;
# then GFLOPs of an image, a text and a pair, all with 32,000 pieces and 16 text positions.
@pytest.mark.parametrize(
    "size, dense, of_8, of_16, of_32, active, routers, image, text, pair",
    [
        ("S/32", 35.1, 84.7, 141.5, 254.9, 35.2, 0.074, 2.24, 0.68, 2.93),
        ("S/16", 34.3, 83.9, 140.6, 254.1, 34.3, 0.074, 9.15, 0.68, 9.83),
        ("V-MoE-S/32", 43.7, 102.5, 169.8, 304.2, 43.8, 0.066, 2.66, 0.81, 3.47),
        ("V-MoE-S/16", 42.6, 101.4, 168.6, 303.1, 42.7, 0.066, 10.65, 0.81, 11.46),
        ("B/32", 113.2, 311.6, 538.3, 991.7, 113.4, 0.147, 8.64, 2.73, 11.37),
        ("B/16", 111.6, 309.9, 536.7, 990.1, 111.7, 0.147, 34.94, 2.73, 37.67),
        ("L/32", 340.4, 1046, 1851, 3463, 340.8, 0.393, 30.14, 9.69, 39.83),
        ("L/16", 338.2, 1043, 1849, 3461, 338.6, 0.393, 122.47, 9.69, 132.16),
        ("H/14", 675.0, 1777, 3036, 5554, 675.5, 0.4915, 333.2, 20.2, 353.4),
    ],
)
def test_counts_agree_with_the_published_architectures(
    size, dense, of_8, of_16, of_32, active, routers, image, text, pair
):
    def printed_like(value, shown):
        """Rounds as `shown` is rounded; totals of a thousand and more are whole millions."""
        return round(value, len(str(shown).partition(".")[2])) == shown

    for num_experts, shown in ((8, of_8), (16, of_16), (32, of_32)):
        total = counts.parameters(architecture(size, num_experts=num_experts))["total"]
        assert printed_like(total / 1e6, shown)
    parameters = counts.parameters(architecture(size))
    assert printed_like(counts.parameters(architecture(size, dense=True))["total"] / 1e6, dense)
    assert printed_like(parameters["per_token"] / 1e6, active)
    assert printed_like(parameters["routers"] / 1e6, routers)
    flops = counts.forward_flops(architecture(size))
    assert printed_like(flops["image"] / 1e9, image)
    assert printed_like(flops["text"] / 1e9, text)
    assert printed_like((flops["image"] + flops["text"]) / 1e9, pair)


def test_parameters_of_h14_written_out():
    attention = 4 * 1280**2 + 4 * 1280
    mlp = 2 * 1280 * 5120 + 5120 + 1280
    norms = 4 * 1280
    routers = 12 * 1280 * 32
    outside = (
        3 * 14**2 * 1280 + 1280  # patches
        + (256 + 16) * 1280  # positions
        + 32_000 * 1280  # vocabulary
        + 2 * 1280  # final norm
        + 2 * 1280 * 1280  # heads
        + 1  # temperature
    )  # fmt: skip
    per_token = outside + 32 * (attention + mlp + norms) + routers
    assert counts.parameters(architecture("H/14")) == {
        "total": per_token + 12 * 31 * mlp,
        "per_token": per_token,
        "routers": 491_520,
    }
    assert round(per_token / 1e6, 2) == 675.51
    assert round((per_token + 12 * 31 * mlp) / 1e6, 2) == 5553.77


# V-MoE sees images only, with a class token (and its position), a layer before the head (D^2 + D)
# and a head of 18,291 classes; the published tables give millions.
@pytest.mark.parametrize(
    "size, sparse_blocks, millions",
    [
        ("V-MoE-S/32", (), 36.5),
        ("V-MoE-S/32", range(1, 8, 2), 296.9),
        ("B/16", (), 100.5),
        ("B/16", range(1, 12, 2), 979.0),
        ("L/16", (), 323.1),
        ("L/16", range(1, 24, 2), 3446.0),
        ("H/14", (), 655.8),
        ("H/14", range(23, 32, 2), 2688.6),
        ("H/14", range(1, 32, 2), 7160.8),
    ],
)
def test_the_same_blocks_give_the_published_counts_of_v_moe(size, sparse_blocks, millions):
    depth = sizes.constructor_values(size)["depth"]
    ours = architecture(size, plan=sizes.plan_of(depth, sparse_blocks))
    shared = sum(
        weight.size
        for weight in counts.weights(ours)
        if not weight.name.startswith("text/") and "head" not in weight.name and weight.shape
    )
    d = ours.width
    assert round((shared + 2 * d + d**2 + d + 18_291 * (d + 1)) / 1e6, 1) == millions


def test_the_model_has_the_weights_that_are_counted():
    changes = {"num_experts": 3, "vocabulary_size": 50, "text_length": 5, "embedding_size": 24}
    model = Limoe.from_size("tiny", **changes)
    images, text = np.zeros((2, 64, 64, 3), "uint8"), np.zeros((2, 5), "int32")
    model({"image": images, "text": text, "text_valid": text == 0})
    built = sorted(tuple(variable.shape) for variable in model.trainable_variables)
    counted = counts.weights(architecture("tiny", **changes))
    assert built == sorted(weight.shape for weight in counted)


def test_a_dense_plan_has_no_routers_and_no_overhead():
    dense = architecture("B/16", dense=True)
    assert counts.parameters(dense)["routers"] == 0
    assert counts.parameters(dense)["per_token"] == counts.parameters(dense)["total"]
    flops = counts.forward_flops(dense)
    assert flops["sparse_experts"] == flops["sparse_routers"] == 0


def test_each_choice_more_adds_one_expert_of_each_sparse_block_to_a_token():
    mlp = 2 * 768 * 3072 + 3072 + 768
    one = counts.parameters(architecture("B/16"))
    three = counts.parameters(architecture("B/16", num_choices=3))
    assert three["per_token"] - one["per_token"] == 6 * 2 * mlp
    assert three["total"] == one["total"]


@pytest.mark.parametrize("size, pair", [("B/16", 38.3), ("L/16", 134.5), ("H/14", 358.0)])
def test_slots_of_capacity_1_05_and_routers_cost_little(size, pair):
    assert round(counts.forward_flops(architecture(size))["total"] / 1e9, 1) == pair


def test_sparse_overhead_written_out():
    # 2 sparse blocks x (64 + 16) tokens x 4 x 128 x 512 = 41,943,040 for dense MLPs in their place.
    # Two choices at capacity 1.5 are 3 times that: 2 times too much. Routers: 160 x 2 x 128 x 8.
    tiny = architecture("tiny", num_experts=8, num_choices=2, capacity_factor=1.5)
    flops = counts.forward_flops(tiny)
    assert flops["sparse_experts"] == 2 * 41_943_040
    assert flops["sparse_routers"] == 327_680
    dropless = dataclasses.replace(tiny, capacity_factor=None)
    assert counts.forward_flops(dropless)["sparse_experts"] == 41_943_040


def test_a_second_moment_is_kept_as_row_and_column_unless_short_or_of_experts():
    kept = counts.second_moment_size
    assert kept(counts.Weight("kernel", (100, 200))) == 100 + 200
    assert kept(counts.Weight("kernel", (31, 200))) == 31 * 200
    assert kept(counts.Weight("bias", (200,))) == 200
    assert kept(counts.Weight("scale", ())) == 1
    assert kept(counts.Weight("kernel_in", (40, 50, 60), expert_axis=0)) == 40 * (50 + 60)
    assert kept(counts.Weight("bias_in", (40, 50), expert_axis=0)) == 40 * 50
    assert kept(counts.Weight("kernel", (50, 40), expert_axis=1)) == 50 * 40


@pytest.mark.parametrize("size", sizes.NAMES)
def test_bytes_agree_with_what_the_optimizer_keeps(size):
    ours = architecture(size)
    kept = sum(
        math.prod(spec.shape) * spec.dtype.size
        for weight in counts.weights(ours)
        for spec in Adafactor().slot_specs(weight.name, weight.shape).values()
    )
    total = counts.parameters(ours)["total"]
    assert counts.state_bytes(ours) == {"weights": 4 * total, "adafactor": kept, "adamw": 8 * total}


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"num_choices": 33}, "`num_choices` must be between 1 and num_experts=32.*=33"),
        ({"image_size": 225}, "`image_size` must be divisible by patch_size=16.*=225"),
        ({"num_heads": 7}, "`width` must be divisible by num_heads=7.*=768"),
        ({"plan": ("dense",)}, "`plan` must have one entry for each of depth=12 blocks"),
        ({"plan": ("thick",) * 12}, "`plan` must be one of 'dense', 'sparse'"),
        ({"capacity_factor": 0}, "`capacity_factor` must be above 0"),
        ({"num_experts": 0}, "`num_experts` must be at least 1"),
        ({"embedding_size": -1}, "`embedding_size` must be at least 1"),
    ],
)
def test_values_that_do_not_fit_are_refused(changes, fault):
    with pytest.raises(ValueError, match=fault):
        architecture("B/16", **changes)


def test_a_size_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="`text_length` must be an integer"):
        architecture("B/16", text_length="16")
