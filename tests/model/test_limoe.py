"""The one-tower model: what it returns, what padding does, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf import Limoe
from limoe_tf.model import counts
from limoe_tf.train import names
from tests.shared import tiny

ROUTING = ["shared", "router_per_modality", "experts_per_modality"]


def embeddings(model, batch, training=False):
    return model(batch, training=training)[0]


@pytest.mark.parametrize("routing", ROUTING)
def test_embeddings_are_of_unit_length_and_reports_are_named_by_block(routing):
    model = tiny.limoe(embedding_size=7, routing=routing, logit_scale=20.0)
    found, report = model(tiny.tensors(6))
    assert set(found) == {"image", "text", "logit_scale"}
    for name in ("image", "text"):
        assert found[name].shape == (6, 7) and found[name].dtype == tf.float32
        np.testing.assert_allclose(tf.norm(found[name], axis=-1), np.ones(6), rtol=1e-5)
    np.testing.assert_allclose(found["logit_scale"], 20.0, rtol=1e-6)
    pool = "image/" if routing == "experts_per_modality" else ""
    assert f"block_01/{pool}local_entropy_image" in report.losses
    assert f"block_01/{pool}success_rate_image" in report.metrics
    assert all(name.startswith("block_01/") for name in [*report.losses, *report.metrics])


def test_uint8_images_are_brought_to_the_range_of_floats():
    model, batch = tiny.limoe(), tiny.tensors()
    floats = tf.cast(batch["image"], tf.float32) / 127.5 - 1
    assert float(tf.reduce_min(floats)) == -1 and float(tf.reduce_max(floats)) == 1
    found = embeddings(model, {"image": batch["image"]})
    np.testing.assert_allclose(
        found["image"], embeddings(model, {"image": floats})["image"], atol=1e-6
    )


def test_without_dropping_a_modality_alone_and_an_example_alone_get_the_same_embeddings():
    model, batch = tiny.limoe(num_choices=2), tiny.tensors(6)
    whole = embeddings(model, batch)
    text = {name: batch[name] for name in ("text", "text_valid")}
    image_only, text_only = embeddings(model, {"image": batch["image"]}), embeddings(model, text)
    assert set(image_only) == {"image", "logit_scale"} and set(text_only) == {"text", "logit_scale"}
    alone = embeddings(model, {name: value[2:3] for name, value in batch.items()})
    for name, other in (("image", image_only), ("text", text_only)):
        np.testing.assert_allclose(other[name], whole[name], atol=1e-6)
        np.testing.assert_allclose(alone[name], whole[name][2:3], atol=1e-6)


def test_both_encoders_give_the_embeddings_of_the_call():
    model, batch = tiny.limoe(), tiny.batch(5)
    whole = embeddings(model, batch)
    for size in (5, 2):  # The second size is another trace.
        images = model.encode_image(batch["image"][:size])
        texts = model.encode_text(batch["text"][:size], batch["text_valid"][:size])
        np.testing.assert_allclose(images, whole["image"][:size], atol=1e-6)
        np.testing.assert_allclose(texts, whole["text"][:size], atol=1e-6)


@pytest.mark.parametrize("routing", ROUTING)
def test_masked_padding_changes_nothing(routing):
    model = tiny.limoe(plan=("sparse", "sparse"), mask_padding=True, routing=routing)
    batch = tiny.tensors(6)
    other = {**batch, "text": tf.where(batch["text_valid"], batch["text"], 18 - batch["text"])}
    assert tf.reduce_any(other["text"] != batch["text"])
    for training in (False, True):
        results = []
        for each in (batch, other):
            for variable in model.non_trainable_variables:
                variable.assign(tf.zeros_like(variable))  # the same noise
            results.append(model(each, training=training))
        for value, wanted in zip(*map(tf.nest.flatten, results), strict=True):
            np.testing.assert_allclose(value, wanted, atol=1e-6)
    valid_pieces = float(tf.reduce_sum(tf.cast(batch["text_valid"], tf.float32)))
    pool = "text/" if routing == "experts_per_modality" else ""
    _, report = model(batch)
    assert float(tf.reduce_sum(report.metrics[f"block_01/{pool}tokens_text"])) == valid_pieces


def test_padding_that_is_not_masked_is_an_ordinary_token():
    model, batch = tiny.limoe(), tiny.tensors(6)
    padded = tf.logical_not(tf.reduce_all(batch["text_valid"], axis=1))
    other = {**batch, "text": tf.where(batch["text_valid"], batch["text"], 18 - batch["text"])}
    before, after = embeddings(model, batch)["text"], embeddings(model, other)["text"]
    changed = tf.reduce_max(tf.abs(after - before), axis=1) > 1e-4
    np.testing.assert_array_equal(changed, padded)
    _, report = model(batch)
    assert float(tf.reduce_sum(report.metrics["block_01/tokens_text"])) == 6 * 5


def test_the_temperature_has_a_bound_if_one_is_asked_for():
    model = tiny.limoe(logit_scale=10.0, max_logit_scale=20.0)
    model.logit_scale_log.assign(3.5)  # e^3.5 = 33
    assert float(model.logit_scale()) == 20.0
    model.logit_scale_log.assign(2.5)
    np.testing.assert_allclose(model.logit_scale(), np.exp(2.5), rtol=1e-6)


@pytest.mark.parametrize("make", [tiny.limoe, tiny.two_tower])
def test_the_sigmoid_loss_has_a_bias_and_changes_nothing_else(make):
    with_bias, without = make(contrastive="sigmoid", logit_bias=-7.0), make()
    found = with_bias(tiny.tensors(6))[0]
    assert set(found) == {"image", "text", "logit_scale", "logit_bias"}
    assert float(found["logit_bias"]) == -7.0 and float(found["logit_scale"]) == pytest.approx(10)
    assert names.of_weights(with_bias).keys() - names.of_weights(without) == {"model/logit_bias"}
    assert names.of_weights(without).keys() <= names.of_weights(with_bias).keys()
    assert set(with_bias.predict(tiny.batch(2), verbose=0)) == {"image", "text"}
    again = type(with_bias).from_config(with_bias.get_config())
    assert float(again.logit_bias) == -7.0
    assert float(make(contrastive="sigmoid").logit_bias) == -10.0


@pytest.mark.parametrize("make", [tiny.limoe, tiny.two_tower])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("mixed_bfloat16", 1e-2)])
def test_image_features_are_what_the_head_projects(make, dtype, tolerance):
    model, images = make(dtype=dtype, embedding_size=7), tiny.tensors(6)["image"]
    features = model.image_features(images)
    assert features.dtype == tf.float32 and features.shape == (6, 12)
    projected = features.numpy() @ model.image_head.projection.kernel.numpy()
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(projected, model.encode_image(images), atol=tolerance)


COUNTED = {"capacity_factor": 1.05, "embedding_size": 7, "num_choices": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"num_experts": 3, "plan": ("sparse", "dense")},
        {"num_experts": 5, "plan": ("sparse", "sparse", "dense"), "depth": 3, "num_choices": 2},
        {"num_experts": 1, "plan": ("dense", "dense"), "text_length": 3, "vocabulary_size": 23},
        {"num_experts": 2, "plan": ("dense", "sparse"), "embedding_size": None, "image_size": 12},
    ],
)
def test_the_model_has_the_parameters_that_are_counted(changes):
    values = {**tiny.VALUES, **COUNTED, **changes}
    model = Limoe(**values)
    counted = counts.parameters(counts.Architecture(**values))
    sizes = {variable.path: np.prod(variable.shape) for variable in model.trainable_variables}
    assert sum(sizes.values()) == counted["total"]
    routers = sum(size for path, size in sizes.items() if "/router/" in path)
    experts = sum(size for path, size in sizes.items() if "/experts/" in path)
    assert routers == counted["routers"]
    used = values["num_choices"] / values["num_experts"]
    assert counted["total"] - experts * (1 - used) == counted["per_token"]


def test_a_router_or_a_pool_for_each_modality_adds_just_what_it_should():
    shared, two_routers, pools = [tiny.limoe(routing=name) for name in ROUTING]
    # D 12, E 4: a second router is 12 x 4. Pools of 2 experts have routers of 12 x 2 each.
    assert two_routers.count_params() - shared.count_params() == 12 * 4
    trainable = [sum(np.prod(v.shape) for v in m.trainable_variables) for m in (shared, pools)]
    assert trainable[0] == trainable[1]


def test_mixed_precision_computes_in_bfloat16_and_answers_in_float32():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    model = tiny.limoe()
    found, report = model(tiny.tensors(), training=True)
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}
    assert model.encoder.compute_dtype == "bfloat16"
    for value in tf.nest.flatten((found, report)):
        assert value.dtype == tf.float32 and np.isfinite(value).all()
    np.testing.assert_allclose(tf.norm(found["image"], axis=-1), np.ones(6), rtol=1e-5)


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"num_choices": 5}, "`num_choices` must be between 1 and num_experts=4. Received: .*=5"),
        ({"image_size": 9}, "`image_size` must be a multiple of `patch_size`. Received: .*=9"),
        (
            {"plan": ("dense",)},
            r"`plan` must have an entry for each of depth=2 blocks.*\('dense',\)",
        ),
        ({"plan": ("dense", "spares")}, "`plan` must be one of 'dense', 'sparse'.*'spares'"),
        ({"num_heads": 5}, "`num_heads` must divide the width. .*num_heads=5, width=12"),
        ({"depth": 0}, "`depth` must be at least 1. Received: depth=0"),
        ({"routing": "both"}, "`routing` must be one of 'shared', .*Received: routing='both'"),
        ({"modalities": ("sound",)}, r"`modalities` must be one of .*\('sound',\)"),
        ({"modalities": ()}, r"`modalities` must be one of .*\('image',\), .*modalities=\(\)"),
        ({"dispatch_order": "last"}, "`dispatch_order` must be one of .*'last'"),
        ({"routing": "experts_per_modality", "num_experts": 3}, "must be even .*num_experts=3"),
        ({"min_experts": {"image": 1}}, "`min_experts` must name every modality .*'image': 1"),
        ({"min_experts": {"image": 1, "text": 5}}, "between 1 and 4. Received: .*'text'.*=5"),
        ({"logit_scale": 0.0}, "`logit_scale` must be at least .*Received: logit_scale=0.0"),
        ({"contrastive": "hinge"}, "`contrastive` must be one of 'softmax', 'sigmoid'.*'hinge'"),
        ({"max_logit_scale": 5.0}, "`max_logit_scale` must be at least 10.0. Received: .*=5.0"),
    ],
)
def test_constructor_values_that_make_no_sense_are_refused(changes, fault):
    with pytest.raises(ValueError, match=fault):
        tiny.limoe(**changes)


def test_an_unknown_size_names_those_there_are():
    with pytest.raises(ValueError, match="`size` must be one of 'tiny', .*Received: size='B/17'"):
        Limoe.from_size("B/17")


@pytest.mark.parametrize(
    "changes, error, fault",
    [
        ({"image": tf.zeros([2, 8, 8, 3], tf.int32)}, TypeError, "uint8 or float. .*=int32"),
        ({"image": tf.zeros([2, 8, 9, 3])}, ValueError, r"\(batch, 8, 8, 3\). .*\(2, 8, 9, 3\)"),
        ({"image": tf.zeros([2, 8, 8])}, ValueError, r"\(batch, 8, 8, 3\). .*\(2, 8, 8\)"),
        ({"text": tf.zeros([2, 5])}, TypeError, "`text` must be integer ids. .*=float32"),
        ({"text": tf.zeros([2, 6], "int32")}, ValueError, r"shape \(batch, 5\). .*\(2, 6\)"),
        ({"label": tf.zeros([2])}, ValueError, "A batch holds .*keys=.*'label'"),
    ],
)
def test_batches_of_another_form_are_refused(changes, error, fault):
    with pytest.raises(error, match=fault):
        tiny.limoe()({**tiny.tensors(2), **changes})


@pytest.mark.parametrize("missing", ["text", "text_valid"])
def test_a_text_and_its_valid_flags_come_together(missing):
    batch = tiny.tensors()
    del batch[missing]
    with pytest.raises(ValueError, match="`text` and `text_valid`, or all three. Received: keys="):
        tiny.limoe()(batch)


def test_a_batch_without_a_modality_is_refused():
    with pytest.raises(ValueError, match=r"A batch holds .*keys=\[\]"):
        tiny.limoe()({})
