"""The dense two-tower baseline: two encoders that share nothing but the temperature."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf import TwoTower
from tests.shared import tiny


def test_a_modality_reaches_only_its_own_tower():
    model = tiny.two_tower()
    for own, other in (("image", "text"), ("text", "image")):
        with tf.GradientTape() as tape:
            embeddings, report = model(tiny.tensors(), training=True)
            loss = tf.reduce_sum(embeddings[own] * tf.range(12.0))
        variables = [v for v in model.trainable_variables if v is not model.logit_scale_log]
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        for variable, gradient in zip(variables, gradients):
            assert (f"{own}_" in variable.path) != (f"{other}_" in variable.path), variable.path
            assert (gradient is not None) == (f"{own}_" in variable.path), variable.path
        assert report.losses == {} and report.metrics == {}


def test_it_has_the_parameters_of_a_dense_tower_and_one_encoder_more():
    # A block of D 12, F 16: attention 4 (144 + 12), MLP 2 * 192 + 16 + 12, two norms 4 * 12.
    block = 4 * (144 + 12) + (2 * 192 + 28) + 48
    one = tiny.limoe(plan=("dense", "dense")).count_params()
    assert tiny.two_tower().count_params() == one + 2 * block + 2 * 12


def test_both_encoders_and_a_modality_alone_give_the_embeddings_of_the_call():
    model, batch = tiny.two_tower(embedding_size=7), tiny.batch(5)
    whole = model(batch)[0]
    assert whole["image"].shape == whole["text"].shape == (5, 7)
    np.testing.assert_allclose(model.encode_image(batch["image"]), whole["image"], atol=1e-6)
    texts = model.encode_text(batch["text"], batch["text_valid"])
    np.testing.assert_allclose(texts, whole["text"], atol=1e-6)


def test_a_named_size_is_dense():
    model = TwoTower.from_size("tiny", depth=1, vocabulary_size=50, text_length=3)
    assert model.plan == ("dense",) and model.width == 128
    with pytest.raises(ValueError, match="must be all dense"):
        TwoTower.from_size("tiny", plan=("dense", "sparse") * 2)
    assert not [v for v in model.weights if "router" in v.path or "experts" in v.path]


def test_the_config_makes_the_same_model_again():
    model = tiny.two_tower(mask_padding=True, embedding_size=7)
    again = TwoTower.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    again.set_weights(model.get_weights())
    for name, value in model(tiny.tensors())[0].items():
        np.testing.assert_array_equal(again(tiny.tensors())[0][name], value)


def test_a_sparse_block_is_refused():
    with pytest.raises(ValueError, match=r"must be all dense. Received: .*\('dense', 'sparse'\)"):
        tiny.two_tower(plan=["dense", "sparse"])
