import numpy as np
import pytest
import tensorflow as tf

from limoe_tf import Limoe
from limoe_tf.evaluate import routing

SMALL = dict(
    width=8, depth=1, num_heads=2, hidden_width=8, patch_size=8, image_size=16, text_length=4,
    vocabulary_size=11, plan=("sparse",), num_experts=4, capacity_factor=1.0,
)  # fmt: skip


def batch(size, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": tf.constant(rng.integers(0, 256, (size, 16, 16, 3)), tf.uint8),
        "text": tf.constant(rng.integers(0, 11, (size, 4)), tf.int32),
        "text_valid": tf.ones((size, 4), tf.bool),
    }


def sparse_layers(model):
    return [block.feed_forward for block in model.encoder.blocks]


def with_equal_gates(**values):
    """Returns a model all of whose tokens choose the first expert: all gates are equal."""
    model = Limoe(**{**SMALL, **values})
    for variable in model.trainable_weights:
        if "/router/" in variable.path:
            variable.assign(tf.zeros_like(variable))
    return model


def test_a_whole_batch_competes_for_the_slots_of_training():
    # 2 x (4 image + 4 text) tokens, 4 experts: 4 slots each. Ties go by position, images
    # first: 4 of the 8 image tokens find room at the first expert, and no text token.
    found = routing.success_rates(with_equal_gates(), [batch(2)])
    assert found == {"image": 0.5, "text": 0.0, "block_00": {"image": 0.5, "text": 0.0}}


def test_groups_compete_apart():
    # A group has 4 image and 4 text tokens and 2 slots an expert, rounded up to a multiple of 4.
    found = routing.success_rates(with_equal_gates(group_size=1), [batch(2)])
    assert found["block_00"] == {"image": 1.0, "text": 0.0}


def test_rates_are_means_over_batches_and_blocks():
    model = Limoe(**{**SMALL, "depth": 2, "plan": ("sparse", "sparse")}, router_noise=0.0)
    batches = [batch(6, seed) for seed in range(3)]
    found = routing.success_rates(model, batches)
    # Without noise the Report of training is that of the training capacity, too.
    reports = [model(one, training=True)[1].metrics for one in batches]
    for modality in ("image", "text"):
        rates = [
            np.mean([report[f"block_0{block}/success_rate_{modality}"] for report in reports])
            for block in range(2)
        ]
        assert 0 < rates[0] < 1
        np.testing.assert_allclose(
            [found["block_00"][modality], found["block_01"][modality]], rates, rtol=1e-6
        )
        np.testing.assert_allclose(found[modality], np.mean(rates), rtol=1e-6)


def test_pools_of_experts_are_measured_by_modality():
    # Each pool has 2 experts; 8 tokens of a modality, 4 slots at the first expert of its pool.
    model = with_equal_gates(routing="experts_per_modality")
    found = routing.success_rates(model, [batch(2)])
    assert found["block_00"] == {"image": 0.5, "text": 0.5}


def test_afterwards_inference_drops_nothing_again():
    model = with_equal_gates()
    routing.success_rates(model, [batch(2)])
    assert [layer.inference_capacity_factor for layer in sparse_layers(model)] == [None]
    _, report = model(batch(2), training=False)
    assert report.metrics["block_00/success_rate_text"] == 1.0


def test_an_error_leaves_the_layers_as_they_were():
    model = with_equal_gates(inference_capacity_factor=2.0)

    def batches():
        yield batch(2)
        raise OSError("The file has gone.")

    with pytest.raises(OSError, match="has gone"):
        routing.success_rates(model, batches())
    assert [layer.inference_capacity_factor for layer in sparse_layers(model)] == [2.0]


def test_a_dense_model_has_no_rates():
    assert routing.success_rates(Limoe(**{**SMALL, "plan": ("dense",)}), [batch(2)]) == {}


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="`batches` must hold at least one batch"):
        routing.success_rates(with_equal_gates(), [])
