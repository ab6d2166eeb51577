"""Freezing: what stays as it is, what goes on, and what saved models keep of it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.train import freeze, gradients
from limoe_tf.train.checkpoint import Checkpoints
from limoe_tf.train.optimizer import Adafactor
from tests.shared import tiny

IMAGE = "image_embed|image_encoder"


def two_tower():
    return tiny.two_tower(depth=1)


def compiled(model, optimizer=None):
    model.compile(optimizer or keras.optimizers.AdamW(0.01), run_eagerly=True)
    return model


def weights(model):
    return {v.path.partition("/")[2]: v.numpy() for v in model.weights}


def changed(model, before):
    """Names of the weights that are not what they were, without biases of keys: no gradient."""
    after = weights(model)
    return {name for name, value in before.items() if (after[name] != value).any()}


@pytest.mark.parametrize("optimizer", [Adafactor, keras.optimizers.AdamW])
def test_an_optimizer_in_use_goes_on_with_what_is_not_frozen(optimizer):
    # The bounds of the norms make each step of them clip.
    bound = {"global_clipnorm": 0.1} if optimizer is Adafactor else {"clipnorm": 0.1}
    model = compiled(two_tower(), optimizer(0.01, **bound))
    model.train_on_batch(tiny.batch(8))
    frozen = model.freeze(IMAGE)
    compiled(model, model.optimizer)
    before, of_frozen = weights(model), set(frozen)
    model.train_on_batch(tiny.batch(8, seed=1))
    moved = changed(model, before)
    assert of_frozen == {n for n in before if n.startswith(("image_embed", "encoder/image_enc"))}
    assert not moved & of_frozen
    still = {name for name in before if name.endswith("key/bias")}
    assert moved | of_frozen | still == set(before)
    assert int(model.optimizer.iterations) == 2


def test_weights_that_an_optimizer_does_not_know_need_a_new_one():
    model = two_tower()
    model.freeze("text_")
    compiled(model)
    model.unfreeze()
    with pytest.raises(ValueError, match="needs a new optimizer. Received: .* without .*text_"):
        model.compile(model.optimizer)
    compiled(model)
    assert freeze.frozen(model) == []


def test_towers_and_blocks_are_layers_that_can_be_frozen_by_hand():
    model = two_tower()
    model.encoder.image_encoder.trainable = False
    model.encoder.text_encoder.blocks[0].trainable = False
    model.text_head.trainable = False
    found = freeze.frozen(model)
    parts = {name.rsplit("/", 2)[0] for name in found}
    assert {"encoder/image_encoder", "encoder/text_encoder/block_00"} < parts
    assert "text_head/projection/kernel" in found and "image_head/projection/kernel" not in found
    with pytest.raises(AttributeError, match="'PerStream' has no attribute or layer 'sound'"):
        model.encoder.sound  # noqa: B018


@pytest.mark.parametrize(
    "patterns, fault",
    [
        ("imgae", "must each match the name of a weight, in layers such as .*Received: 'imgae'"),
        (["image_embed", "imgae"], "Received: 'imgae', which matches none"),
        ("image_(", r"must be regular expressions. Received: 'image_\('"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused_and_nothing_frozen(patterns, fault):
    model = two_tower()
    with pytest.raises(ValueError, match=fault):
        model.freeze(patterns)
    assert freeze.frozen(model) == []


def test_a_part_of_what_is_frozen_is_trained_again():
    model = tiny.limoe()
    everything = model.freeze(".")
    freed = model.unfreeze(["image_head", "block_01/moe/router"])
    assert freed == ["encoder/block_01/moe/router/kernel", "image_head/projection/kernel"]
    assert set(freeze.frozen(model)) == set(everything) - set(freed)
    assert model.unfreeze() == everything and freeze.frozen(model) == []


def test_training_after_a_change_of_what_is_frozen_needs_compile():
    model = compiled(two_tower())
    model.train_on_batch(tiny.batch(8))
    model.image_embed.trainable = False
    with pytest.raises(ValueError, match="`compile` must follow .* 41 weights to train, 44"):
        model.train_on_batch(tiny.batch(8))
    compiled(model, model.optimizer)
    model.train_on_batch(tiny.batch(8))


def test_an_optimizer_with_averages_of_frozen_weights_is_refused():
    model = compiled(two_tower(), keras.optimizers.SGD(0.01, use_ema=True))
    model.freeze(IMAGE)
    with pytest.raises(ValueError, match="`use_ema` must be new after freezing"):
        compiled(model, model.optimizer)


def test_a_layer_that_has_nothing_left_to_train_is_frozen():
    model = tiny.limoe()
    model.freeze(["block_01/moe/experts", "block_00"])
    first, second = model.encoder.blocks
    assert not first.trainable and not first.attention.trainable
    assert second.trainable and second.feed_forward.trainable
    assert second.feed_forward.router.trainable and not second.feed_forward.experts.trainable
    assert second.feed_forward.trainable_variables == second.feed_forward.router.kernels


def test_a_model_that_is_all_frozen_can_be_evaluated_and_not_trained():
    model = two_tower()
    model.freeze(".")
    assert not model.trainable and model.num_parameters == two_tower().num_parameters
    compiled(model)
    assert np.isfinite(model.evaluate(tiny.batch(8), verbose=0)).all()
    with pytest.raises(ValueError, match="must have weights to train. Received: all are frozen"):
        model.train_on_batch(tiny.batch(8))


def test_a_frozen_sparse_layer_works_as_at_inference():
    model, batch = tiny.limoe(capacity_factor=0.3), tiny.tensors(6)
    expected = model(batch)[0]["image"]
    assert np.abs(model(batch, training=True)[0]["image"] - expected).max() > 1e-3
    model.freeze("block_01/moe")
    found, report = model(batch, training=True)
    np.testing.assert_allclose(found["image"], expected, atol=1e-6)
    assert float(report.metrics["block_01/success_rate_image"]) == 1.0


class Outer(keras.Model):
    """A classifier upon a frozen model, to which Keras passes `training=True`."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.head = inner, keras.layers.Dense(3)
        self.seen = []

    def call(self, batch):
        features = self.inner(batch)[0]["image"]
        self.seen.append(features)
        return self.head(features)


def test_a_frozen_model_within_another_gives_the_features_of_inference():
    inner, batch = tiny.limoe(capacity_factor=0.3), tiny.tensors(6)
    expected = inner(batch)[0]["image"]
    inner.trainable = False
    outer = Outer(inner)
    outer(batch, training=True)
    np.testing.assert_allclose(outer.seen[-1], expected, atol=1e-6)
    assert len(outer.trainable_variables) == 2


def test_a_saved_model_keeps_what_is_frozen_and_the_state_of_its_optimizer(tmp_path):
    model = compiled(two_tower())
    model.train_on_batch(tiny.batch(8))
    model.freeze(IMAGE)
    compiled(model, model.optimizer)  # It has the moments of all weights.
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert freeze.frozen(loaded) == freeze.frozen(model) != []
    assert not loaded.encoder.image_encoder.trainable and loaded.encoder.text_encoder.trainable
    for value, wanted in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert loaded.train_on_batch(tiny.batch(8)) == model.train_on_batch(tiny.batch(8))
    assert "frozen" not in two_tower().get_config()


def test_a_model_that_is_not_trainable_is_saved_as_that(tmp_path):
    model = two_tower()
    model.trainable = False
    model.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    assert freeze.frozen(loaded) == freeze.frozen(model) == loaded.unfreeze() != []
    assert len(loaded.trainable_variables) == len(two_tower().trainable_variables)


def test_frozen_experts_are_saved(tmp_path):
    model, other = tiny.limoe(expert_mesh="expert:2"), tiny.limoe(expert_mesh="expert:2")
    model.freeze("experts")
    model.save_weights(tmp_path / "a.weights.h5")
    other.load_weights(tmp_path / "a.weights.h5")
    for value, wanted in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_a_checkpoint_keeps_what_is_frozen(tmp_path):
    model = compiled(two_tower())
    model.train_on_batch(tiny.batch(8))
    model.freeze(IMAGE)
    compiled(model, model.optimizer)
    model.train_on_batch(tiny.batch(8))
    Checkpoints(model, tmp_path).save()
    expected = model.train_on_batch(tiny.batch(8, seed=1))
    frozen_before = two_tower()
    frozen_before.freeze(IMAGE)  # Its optimizer has no moments of the images' tower.
    for other in (two_tower(), frozen_before):
        compiled(other)
        assert Checkpoints(other, tmp_path).restore_latest() == 2
        assert freeze.frozen(other) == freeze.frozen(model)
        assert other.train_on_batch(tiny.batch(8, seed=1)) == pytest.approx(expected, rel=1e-5)
    weights_alone, not_compiled = two_tower(), two_tower()
    Checkpoints(weights_alone, tmp_path, weights_only=True).restore_latest()
    Checkpoints(not_compiled, tmp_path).restore_latest()
    assert freeze.frozen(weights_alone) == []
    assert freeze.frozen(not_compiled) == freeze.frozen(model)


def test_more_can_be_frozen_than_in_a_checkpoint(tmp_path):
    Checkpoints(compiled(two_tower()), tmp_path).save()
    model = two_tower()
    frozen = model.freeze(IMAGE)
    assert Checkpoints(compiled(model), tmp_path).restore_latest() == 0
    assert freeze.frozen(model) == frozen


def test_a_checkpoint_of_another_optimizer_is_refused_whatever_is_frozen(tmp_path):
    model = two_tower()
    model.freeze(IMAGE)
    Checkpoints(compiled(model), tmp_path).save()
    other = two_tower()
    other.freeze("text_")
    compiled(other, keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="not in the model: optimizer/image_head"):
        Checkpoints(other, tmp_path).restore_latest()


def test_recomputed_blocks_on_replicas_leave_frozen_weights_alone():
    with tiny.strategy_of(2).scope():
        model = tiny.limoe(depth=1, plan=("dense",), recompute_blocks=True)
        model.freeze("attention")
        model.compile("sgd")
    before = weights(model)
    model.fit(tiny.dataset(1), verbose=0)
    moved = changed(model, before)
    assert moved and not any("attention/" in name for name in moved)


def test_gradients_of_other_variables_than_were_named_are_refused():
    variables = [keras.Variable([1.0]), keras.Variable([2.0])]
    optimizer = keras.optimizers.SGD(clipnorm=1.0)
    optimizer.build(variables)
    gradients.with_reduced_gradients(optimizer, variables[:1])
    with pytest.raises(ValueError, match="compiled again. Received: 2 gradients for 1 variables"):
        optimizer.apply([tf.ones(1)] * 2, variables)


def test_weights_that_nothing_could_train_are_not_frozen():
    model = tiny.vlmoe(plan=("dense", "dense"))
    assert freeze.frozen(model) == [] and "frozen" not in model.get_config()
    everything = model.freeze(".")
    assert freeze.frozen(model) == everything
    assert len(everything) == len(model.weights) - 1 and "patch_codes/centres" not in everything
    with pytest.raises(ValueError, match="Received: 'centres', which matches none"):
        model.freeze("centres")
    assert model.unfreeze() == everything and freeze.frozen(model) == []
    assert len(model.trainable_variables) == len(everything)
    # A weight that could be trained, and is not, is another thing.
    model.patch_head.projection.bias.trainable = False
    assert freeze.frozen(model) == ["patch_head/projection/bias"]
