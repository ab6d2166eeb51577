"""What is read of a model's routing: that of training, in the numbers that the Report has."""

import numpy as np
import pytest

import tiny
from limoe_tf.analyze.routes import routes_of

VARIANTS = {
    "shared": {"plan": ("sparse", "sparse")},
    "two choices": {"num_choices": 2, "mask_padding": True},
    "pools": {"routing": "experts_per_modality"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_decisions_add_up_to_the_numbers_of_the_report(variant):
    crowded = {"capacity_factor": 0.5, "router_noise": 0.0, "group_size": 3}
    model = tiny.limoe(**crowded, **VARIANTS[variant])
    batch = tiny.tensors(6)
    with routes_of(model) as routes:
        found = routes(batch)
    metrics = model(batch, training=True)[1].metrics
    dropped = 0
    for layer, by_modality in found.items():
        for modality, one in by_modality.items():
            assert one.expert.shape[:2] == (6, {"image": 4, "text": 5}[modality])
            taken = np.bincount(one.expert[one.kept], minlength=4)
            np.testing.assert_array_equal(
                taken[: len(metrics[f"{layer}/tokens_{modality}"])],
                metrics[f"{layer}/tokens_{modality}"],
            )
            routed = one.expert >= 0
            rate = one.kept[routed].mean()
            np.testing.assert_allclose(rate, metrics[f"{layer}/success_rate_{modality}"], rtol=1e-6)
            np.testing.assert_allclose(
                one.entropy, metrics[f"{layer}/marginal_entropy_{modality}"], rtol=1e-5
            )
            if variant == "two choices" and modality == "text":
                np.testing.assert_array_equal(routed[..., 0], batch["text_valid"])
            dropped += (~one.kept[routed]).sum()
    assert dropped > 0


def test_ranks_are_the_places_in_the_order_of_the_surest_gates():
    model = tiny.limoe(plan=("sparse",), depth=1, router_noise=0.0, group_size=6)
    with routes_of(model) as routes:
        (by_modality,) = routes(tiny.tensors(6)).values()
    gates = np.concatenate([one.gate[..., 0].ravel() for one in by_modality.values()])
    ranks = np.concatenate([one.rank.ravel() for one in by_modality.values()])
    np.testing.assert_allclose(np.sort(ranks), np.linspace(0, 1, len(ranks)), atol=1e-6)
    assert (np.diff(gates[np.argsort(ranks)]) <= 1e-7).all()


def test_the_model_is_afterwards_as_it_was():
    model = tiny.limoe()
    batch = tiny.tensors(4)
    before = model(batch, training=False)
    with routes_of(model) as routes:
        routes(batch)
    after = model(batch, training=False)
    assert set(after[1].metrics) == set(before[1].metrics)
    np.testing.assert_array_equal(after[0]["image"], before[0]["image"])


def test_a_dense_model_has_nothing_to_show():
    with pytest.raises(ValueError, match="`model` must have sparse blocks"):
        with routes_of(tiny.limoe(plan=("dense", "dense"))):
            pass
