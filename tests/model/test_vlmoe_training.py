"""VL-MoE is trained, evaluated, saved and spread over replicas like any model."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.mesh.shards import Whole
from limoe_tf.model.vlmoe import LOSSES
from limoe_tf.objectives.total import total
from limoe_tf.train import names, step
from limoe_tf.train.checkpoint import Checkpoints
from tests.shared import tiny
from tests.shared.masked import encoded, shaken, shown

ACCURACIES = {f"{loss}_accuracy" for loss in LOSSES}
RATES = {f"success_rate_{name}" for name in ("text", "image", "pair_text", "pair_image")}


def compiled(seed=0, optimizer="sgd", **changes):
    keras.utils.set_random_seed(seed)
    model = tiny.vlmoe(**{"plan": ("sparse", "dense"), **changes})
    model.compile(optimizer, detailed_logs=True)
    return model


def trained(model, batch, steps=1):
    data = tf.data.Dataset.from_tensors(batch).repeat(steps)
    options = {"epochs": steps, "steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    return model.fit(data, **options).history


def losses_of(model, batch):
    losses = model.forward(batch, training=False).losses
    return {name: float(value) for name, value in losses.items()}


def test_training_lowers_all_losses_and_evaluation_tells_them():
    model, batch = tiny.vlmoe(plan=("sparse", "dense")), tiny.masked_batch()
    model.compile(keras.optimizers.Adam(0.02))
    data = tf.data.Dataset.from_tensors(batch).repeat()
    history = model.fit(data, epochs=4, steps_per_epoch=8, shuffle=False, verbose=0).history
    others = {"loss", "gradient_norm", "learning_rate", "skipped"}
    assert set(history) == {*LOSSES, *ACCURACIES, *RATES, *others}
    for name in LOSSES:
        assert history[name][-1] < 0.8 * history[name][0], name
    after = losses_of(model, batch)
    found = model.evaluate(data, steps=1, verbose=0, return_dict=True)
    assert set(found) == {"loss", *LOSSES, *ACCURACIES, *RATES}
    for name in LOSSES:
        np.testing.assert_allclose(found[name], after[name], rtol=1e-4)
    np.testing.assert_allclose(found["loss"], total(after, model.loss_weights), rtol=1e-4)


def test_a_batch_of_one_kind_has_the_logs_of_that_kind():
    model, batch = compiled(), tiny.masked_batch()
    texts = {name: value for name, value in batch.items() if name.startswith("lone_text")}
    before = [v.numpy() for v in model.trainable_variables]
    logs = {name for name in trained(model, texts) if "/" not in name}
    moved = {
        v.path.split("/", 2)[1]
        for v, value in zip(model.trainable_variables, before)
        if (v.numpy() != value).any()
    }
    assert moved == {"text_embed", "encoder", "word_head"}
    others = {"loss", "gradient_norm", "learning_rate", "skipped"}
    assert logs == {"mlm", "mlm_accuracy", "success_rate_text", *others}


def test_a_saved_model_gives_the_same_encodings_and_losses_and_keeps_its_codebook(tmp_path):
    model, batch = compiled(layer_scale=0.1, drop_path=0.2), tiny.masked_batch()
    shaken(model)
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert loaded.get_config() == json.loads(json.dumps(model.get_config()))
    assert loaded.companions == {"codebook": tiny.codebook().sha256}
    np.testing.assert_array_equal(loaded.patch_codes.centres, tiny.codebook().centres)
    for name, value in encoded(model, batch).items():
        np.testing.assert_allclose(encoded(loaded, batch)[name], value, atol=1e-6)
    assert losses_of(loaded, batch) == pytest.approx(losses_of(model, batch), rel=1e-5)
    with pytest.raises(ValueError, match="must meet the codebook with which"):
        loaded.use_codebook(tiny.codebook()._replace(sha256="1" * 64))


def test_a_checkpoint_gives_back_all_that_training_needs(tmp_path):
    options = {"optimizer": keras.optimizers.Adam(0.01), "drop_path": 0.2}
    model, batch = compiled(**options), tiny.masked_batch()
    trained(model, batch, steps=2)
    Checkpoints(model, tmp_path).save()
    options["optimizer"] = keras.optimizers.Adam(0.01)
    other = compiled(seed=1, **options)
    other.patch_codes.centres.assign(tf.zeros_like(other.patch_codes.centres))
    assert Checkpoints(other, tmp_path).restore_latest() == 2
    assert other.companions == model.companions
    for found, expected in zip(other.weights, model.weights, strict=True):
        np.testing.assert_array_equal(found, expected)
    # The next draws of noise and of stochastic depth are the same, too.
    found, expected = (trained(each, tiny.masked_batch(seed=1)) for each in (other, model))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def unequal_batch():
    """Eight of each, the texts of the first half with fewer masked words than the others."""
    batch = tiny.masked_batch(8, word_share=0.5)
    for key in ("text", "lone_text"):
        counts = batch[f"{key}_masked_present"].sum(axis=1)
        order = np.argsort(counts, kind="stable")
        assert counts[order[:4]].sum() < counts[order[4:]].sum()
        others = {"_valid", "_shown", "_masked", "_masked_present", ""}
        batch.update({f"{key}{end}": batch[f"{key}{end}"][order] for end in others})
    return batch


@functools.cache
def second_step(num_replicas, mesh=None):
    """The logs of a second step of rate 1, and the weights after it."""
    with tiny.strategy_of(num_replicas).scope():
        mesh = None if mesh is None else ExpertMesh(mesh, spans="replicas")
        # Two examples are a group, wherever they are.
        model = compiled(expert_mesh=mesh, group_size=2, drop_path=0.3)
        model.compile(keras.optimizers.SGD(0.5), detailed_logs=True)
    history = trained(model, unequal_batch(), steps=2)
    weights = names.whole(model, names.of_weights(model))
    read = {k: v.read() if isinstance(v, Whole) else v for k, v in weights.items()}
    return history, {name: value.numpy() for name, value in read.items()}


@pytest.mark.parametrize("mesh", [None, "data:1;expert:2"])
def test_replicas_with_unequal_numbers_of_masked_words_train_as_one_device(mesh):
    logs, weights = second_step(2, mesh)
    expected, expected_weights = second_step(1)
    assert set(logs) == set(expected) and set(weights) == set(expected_weights)
    for found, wanted in ((logs, expected), (weights, expected_weights)):
        for name, value in wanted.items():
            # The gradient of a bias of the keys is nothing but rounding.
            if not name.endswith("key/bias"):
                np.testing.assert_allclose(found[name], value, 1e-4, atol=1e-4, err_msg=name)


def gradients(**changes):
    keras.utils.set_random_seed(0)
    model = tiny.vlmoe(plan=("dense", "dense"), drop_path=0.5, **changes)
    model.compile("sgd")
    differentiate = tf.function(
        lambda batch: step.differentiate(model, batch, model.loss_weights), autograph=False
    )
    logs, found = differentiate(tiny.masked_tensors())
    counters = [int(v) for v in model.non_trainable_variables if v.path.endswith("draws")]
    return logs, [tf.convert_to_tensor(one) for one in found], counters


def test_recomputed_blocks_draw_what_they_drew_before():
    found, expected = gradients(recompute_blocks=True), gradients()
    assert found[2] == expected[2] == [2]
    for value, wanted in zip(*(tf.nest.flatten(each[:2]) for each in (found, expected))):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)


def test_mixed_precision_computes_in_bfloat16_and_reports_in_float32():
    batch = tiny.masked_tensors()
    expected = losses_of(tiny.vlmoe(), batch)
    keras.utils.set_random_seed(0)
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    model = tiny.vlmoe()
    report = model.forward(batch, training=False)
    assert model(shown(batch))[0]["pair_text"].dtype == tf.bfloat16
    assert {value.dtype for value in tf.nest.flatten(report)} == {tf.float32}
    assert {v.dtype for v in model.trainable_variables} == {"float32"}
    for name in LOSSES:
        np.testing.assert_allclose(report.losses[name], expected[name], rtol=0.05)
