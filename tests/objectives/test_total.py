"""The total loss is the weighted sum of all named losses, and no loss is lost."""

import pytest
import tensorflow as tf

from limoe_tf.objectives.total import DEFAULT_WEIGHTS, check_weights, total
from tests.shared import tiny


def test_losses_of_all_layers_are_summed_with_the_weight_of_their_kind():
    # 1 * 2 + 0.5 * 4 + 0.5 * 6 + 0.25 * 8 = 9; the weight 3 belongs to a loss that is not there.
    losses = {"contrastive": 2.0, "block_01/z": 4.0, "block_03/moe/z": 6.0, "block_01/load": 8.0}
    losses = {name: tf.constant(value) for name, value in losses.items()}
    weights = {"contrastive": 1.0, "z": 0.5, "load": 0.25, "importance": 3.0}
    assert float(total(losses, weights)) == 9.0


def test_the_longest_end_of_a_name_that_has_a_weight_is_taken():
    # 2 * 1 for the texts' own, 0.5 * 10 and 0.5 * 100 for the others, which have no longer one;
    # 3 * 1000 for the whole name.
    losses = {
        "block_01/text/load": 1.0, "block_01/image/load": 10.0,
        "load": 100.0, "block_00/text/load": 1000.0,
    }  # fmt: skip
    losses = {name: tf.constant(value) for name, value in losses.items()}
    weights = {"load": 0.5, "text/load": 2.0, "block_00/text/load": 3.0}
    assert float(total(losses, weights)) == 2 + 5 + 50 + 3000
    # A longer weight of 0 leaves a loss out. A part in the middle of a name, or of a word, is none.
    zero = {"block_01/text/load": tf.constant(float("inf")), "load": tf.constant(4.0)}
    assert float(total(zero, {"load": 0.5, "text/load": 0.0})) == 2.0
    for weights in ({"text": 1.0}, {"ext/load": 1.0}, {"block_01/text": 1.0}):
        with pytest.raises(ValueError, match="Every loss needs a weight"):
            total({"block_01/text/load": tf.constant(1.0)}, weights)


def test_a_weight_of_zero_leaves_a_loss_out_even_if_it_is_not_finite():
    losses = {"contrastive": tf.constant(2.0), "block_01/z": tf.constant(float("inf"))}
    assert float(total(losses, {"contrastive": 1.0, "z": 0.0})) == 2.0
    assert float(total(losses, {"contrastive": 0.0, "z": 0.0})) == 0.0


def test_a_loss_without_a_weight_is_refused_by_name():
    losses = {"contrastive": tf.constant(1.0), "block_01/surprise": tf.constant(1.0)}
    with pytest.raises(ValueError, match="Every loss needs a weight") as error:
        total(losses, {"contrastive": 1.0})
    assert "['block_01/surprise']" in str(error.value)


def test_weights_are_the_default_ones_except_where_they_differ():
    assert check_weights(None) == DEFAULT_WEIGHTS
    changed = check_weights({"z": 0.0, "mutual_information": 2})
    assert changed == {**DEFAULT_WEIGHTS, "z": 0.0, "mutual_information": 2}
    assert DEFAULT_WEIGHTS["mutual_information"] == 0.0


@pytest.mark.parametrize(
    "weights, fault",
    [
        ({"z_loss": 0.1}, r"must name losses among .*'z'.*Received: \['z_loss'\]"),
        ({"block_01/z": 0.1}, r"must name losses among .*Received: \['block_01/z'\]"),
        ({"z": -0.1}, "must be finite and not negative. Received: z=-0.1"),
        ({"z": float("inf")}, "must be finite and not negative. Received: z=inf"),
        ({"z": float("nan")}, "must be finite and not negative. Received: z=nan"),
    ],
)
def test_weights_that_name_nothing_or_make_no_sense_are_refused(weights, fault):
    with pytest.raises(ValueError, match=fault):
        check_weights(weights)


def routers_of(name, routers):
    """The routers whose gates a loss is made of: its layer's, and its modality's if it has one."""
    block, *pool, kind = name.split("/")
    modality = pool[0] if pool else kind.rsplit("_", 1)[-1]
    found = [router for router in routers if f"/{block}/" in router.path]
    return [r for r in found if modality in r.path] or found


@pytest.mark.parametrize(
    "routing, num_losses",
    # Eight of each of two layers; a pool of one modality has no loss of the other, nor of both.
    [("shared", 2 * 8), ("router_per_modality", 2 * 8), ("experts_per_modality", 2 * 2 * 5)],
)
def test_every_loss_of_a_model_moves_the_total_and_reaches_its_router(routing, num_losses):
    # The entropies' thresholds are never met where all experts of the pool are wanted.
    wanted = 2 if routing == "experts_per_modality" else 4
    model = tiny.limoe(
        plan=("sparse", "sparse"), routing=routing, min_experts={"image": wanted, "text": wanted}
    )
    routers = [v for v in model.trainable_variables if "/router/" in v.path]
    with tf.GradientTape(persistent=True) as tape:
        _, report = model(tiny.tensors(), training=True)
        totals = {
            name: total({name: loss}, {name.rsplit("/", 1)[-1]: 2.0})
            for name, loss in report.losses.items()
        }
    assert len(totals) == num_losses
    for name, value in totals.items():
        assert float(value) == 2 * float(report.losses[name]) != 0
        for router in routers_of(name, routers):
            assert float(tf.norm(tape.gradient(value, router.value))) > 0, (name, router.path)
