"""Expert pruning: which experts stay, and what the smaller model computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.evaluate import prune
from limoe_tf.evaluate.embed import feature_encoder
from tests.shared import tiny
from tpu_jobs import experiment


def drawn(model, seed=0):
    """Gives all weights, biases too, random values; returns the model."""
    random = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        variable.assign(random.normal(scale=0.5, size=variable.shape))
    return model


def batch_of(modality, size=6):
    return {key: value for key, value in tiny.tensors(size).items() if key.startswith(modality)}


def embedded(model, modality):
    return model(batch_of(modality))[0][modality].numpy()


def with_unused_experts(modality, unused, **changes):
    """A model whose tokens give some experts gates of exp(-200), which is zero in float32."""
    model = drawn(tiny.limoe(num_experts=5, **changes))
    block = model.encoder.blocks[1]
    # The first entry of each token is 1, so that the kernel's first row is a bias.
    gamma, beta = (v.numpy() for v in block.feed_forward_norm.weights)
    gamma[0], beta[0] = 0, 1
    block.feed_forward_norm.set_weights([gamma, beta])
    router = block.feed_forward.router
    for variable in router.kernels:
        if variable.name in ("kernel", f"kernel_{modality}"):
            kernel = variable.numpy()
            kernel[0] = [-200 if expert in unused else 0 for expert in range(5)]
            variable.assign(kernel)
    return model


@pytest.mark.parametrize("modality", ["image", "text"])
@pytest.mark.parametrize("routing", ["shared", "router_per_modality"])
@pytest.mark.parametrize("num_choices", [1, 2])
def test_without_the_experts_that_no_token_uses_nothing_changes(modality, routing, num_choices):
    model = with_unused_experts(modality, (0, 3), routing=routing, num_choices=num_choices)
    shares = prune.shares(model, [batch_of(modality)], modality=modality)
    assert shares[1][0] == shares[1][3] == 0 and np.count_nonzero(shares[1]) > num_choices
    kept = {1: [1, 2, 4]}
    smaller = prune.pruned(model, modality=modality, kept=kept)
    np.testing.assert_allclose(embedded(smaller, modality), embedded(model, modality), atol=1e-6)
    assert smaller.num_parameters < model.num_parameters


def by_masked_softmax(x, layer, kept, num_choices):
    """The sparse layer in NumPy, token by token, with the logits of other experts at -inf."""
    kernel = layer.router.kernels[0].numpy()
    experts = layer.experts
    weights = (experts.kernel_in, experts.bias_in, experts.kernel_out, experts.bias_out)
    kernel_in, bias_in, kernel_out, bias_out = (w.numpy() for w in weights)
    outputs = np.zeros_like(x)
    for place in np.ndindex(x.shape[:2]):
        token = x[place]
        logits = np.full(kernel.shape[1], -np.inf)
        logits[kept] = (token @ kernel)[kept]
        gates = np.exp(logits - logits.max())
        gates /= gates.sum()
        for expert in np.argsort(-gates)[:num_choices]:
            hidden = token @ kernel_in[expert] + bias_in[expert]
            inner = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
            hidden *= 0.5 * (1 + np.tanh(inner))
            outputs[place] += gates[expert] * (hidden @ kernel_out[expert] + bias_out[expert])
    return outputs


@pytest.mark.parametrize("num_choices", [1, 2])
def test_tokens_go_to_the_best_of_the_experts_that_are_left(num_choices):
    model = drawn(tiny.limoe(num_experts=5, num_choices=num_choices))
    smaller = prune.pruned(model, modality="text", kept={1: [0, 2, 3]})
    x = np.random.default_rng(1).normal(size=(3, 5, 12)).astype("float32")
    layer = smaller.encoder.blocks[1].feed_forward
    found = layer({"text": tf.constant(x)}, {"text": None})[0]["text"]
    whole = model.encoder.blocks[1].feed_forward
    expected = by_masked_softmax(x, whole, [0, 2, 3], num_choices)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    without = by_masked_softmax(x, whole, [0, 1, 2, 3, 4], num_choices)
    assert np.abs(without - expected).max() > 0.1


@pytest.mark.parametrize("modality", ["image", "text"])
def test_pools_and_towers_of_its_own_are_all_that_a_modality_needs(modality):
    pools = drawn(tiny.limoe(routing="experts_per_modality", embedding_size=7))
    two_tower = drawn(tiny.two_tower(mask_padding=True))
    for model, kept in ((pools, {1: [0, 1]}), (two_tower, {})):
        smaller = prune.pruned(model, modality=modality, kept=kept)
        np.testing.assert_array_equal(embedded(smaller, modality), embedded(model, modality))
        (other,) = {"image", "text"} - {modality}
        assert not [v.path for v in smaller.weights if other in v.path]


def test_the_smaller_model_has_the_parameters_that_it_should():
    model = tiny.limoe(num_experts=4, plan=("sparse", "sparse"))
    smaller = prune.pruned(model, modality="image", kept={0: [1, 3], 1: [2]})
    # D 12, F 16, Z 12; 4 patches of 4 x 4 x 3; 3 experts in all, with as many router columns.
    embed, head = 48 * 12 + 12 + 4 * 12, 12 * 12
    block = 4 * (12 * 12 + 12) + 2 * 2 * 12
    expert = 12 * 16 + 16 + 16 * 12 + 12
    assert smaller.num_parameters == embed + 2 * block + 3 * (expert + 12) + 2 * 12 + head + 1
    # 5 experts more; texts of 5 pieces, of which there are 19.
    text = 19 * 12 + 5 * 12 + 12 * 12
    assert model.num_parameters == smaller.num_parameters + 5 * (expert + 12) + text


def test_tasks_find_the_smaller_model_in_the_place_of_one_modality():
    model, batch = drawn(tiny.limoe(num_experts=5)), tiny.tensors()
    for modality in ("image", "text"):
        smaller = prune.pruned(model, modality=modality, kept={1: [0, 2]})
        by = {"image": model, "text": model, modality: smaller}
        both = prune.combined(model, smaller, modality=modality)
        images, texts = batch["image"], (batch["text"], batch["text_valid"])
        for encoder in (lambda found: found.encode_image, feature_encoder):
            expected = encoder(by["image"])(images)
            np.testing.assert_array_equal(encoder(both)(images), expected)
        np.testing.assert_array_equal(both.encode_text(*texts), by["text"].encode_text(*texts))
        assert (both.image_size, float(both.logit_scale())) == (8, float(model.logit_scale()))


def test_shares_are_those_of_all_batches_together():
    model = drawn(tiny.limoe(num_choices=2, mask_padding=True))
    whole = batch_of("text", 8)
    parts = [{key: value[a:b] for key, value in whole.items()} for a, b in ((0, 5), (5, 8))]
    found = prune.shares(model, parts, modality="text")
    assert list(found) == [1]
    taken = model(whole)[1].metrics["block_01/tokens_text"].numpy()
    assert taken.sum() == 2 * np.sum(whole["text_valid"])
    np.testing.assert_allclose(found[1], taken / taken.sum(), rtol=1e-12)


@pytest.mark.parametrize(
    "rule, expected",
    [
        ({"coverage": 0.5}, [[2], [0]]),
        ({"coverage": 0.7}, [[1, 2], [0]]),
        ({"coverage": 0.85}, [[0, 1, 2], [0]]),
        ({"coverage": 1.0}, [[0, 1, 2, 3], [0, 1]]),
        ({"coverage": 0.5, "num_choices": 3}, [[0, 1, 2], [0, 1, 2]]),
        ({"min_share": 0.1}, [[0, 1, 2, 3], [0, 1]]),
        ({"min_share": 0.2}, [[1, 2], [0]]),
        ({"min_share": 0.9, "num_choices": 2}, [[1, 2], [0, 1]]),
    ],
)
def test_the_fewest_experts_that_cover_enough_or_all_that_take_enough_stay(rule, expected):
    shares = {1: np.array([0.1, 0.3, 0.5, 0.1]), 3: np.array([0.85, 0.15, 0, 0])}
    assert prune.experts_to_keep(shares, **rule) == dict(zip((1, 3), expected))


def test_rounding_keeps_no_expert_more():
    # 0.7 + 0.2 = 0.8999999999999999
    assert prune.experts_to_keep({1: np.array([0.7, 0.1, 0.2])}, coverage=0.9) == {1: [0, 2]}


def test_what_makes_no_sense_is_refused():
    model = tiny.limoe()
    for rule in ({}, {"coverage": 0.5, "min_share": 0.5}):
        with pytest.raises(ValueError, match="Exactly one of `coverage` and `min_share`"):
            prune.experts_to_keep({}, **rule)
    with pytest.raises(ValueError, match="`coverage` must be between 0 and 1. .*=99"):
        prune.experts_to_keep({}, coverage=99)
    with pytest.raises(ValueError, match=r"each of the sparse blocks \[1\]. Received: {0: \[1\]}"):
        prune.pruned(model, modality="image", kept={0: [1]})
    with pytest.raises(ValueError, match="`kept, experts of .*kernel.*between 0 and 3. .*=4"):
        prune.pruned(model, modality="image", kept={1: [4]})
    with pytest.raises(ValueError, match="must name each expert once"):
        prune.pruned(model, modality="image", kept={1: [2, 2]})
    with pytest.raises(ValueError, match="`batches` must hold at least one batch"):
        prune.shares(model, [], modality="image")
    smaller = prune.pruned(model, modality="image", kept={1: [2]})
    with pytest.raises(ValueError, match="`modality` must be one of 'image'. .*'text'"):
        prune.pruned(smaller, modality="text", kept={1: [0]})
    with pytest.raises(ValueError, match=r"A batch holds .* for modalities=\('image',\)"):
        smaller.encode_text(tf.zeros([2, 5], "int32"), tf.ones([2, 5], "bool"))
    with tiny.strategy_of(2).scope():
        several = tiny.limoe()
    with pytest.raises(ValueError, match="on one replica to be pruned. Received: 2"):
        prune.shares(several, [], modality="image")


def test_a_smaller_model_can_be_saved_and_pruned_again(tmp_path):
    model = drawn(tiny.limoe(plan=("sparse", "sparse"), mask_padding=True))
    model.freeze("image|router")
    once = prune.pruned(model, modality="text", kept={0: [3, 1, 2], 1: [0, 2]})
    twice = prune.pruned(once, modality="text", kept={0: [1, 2], 1: [0]})
    at_once = prune.pruned(model, modality="text", kept={0: [1, 2], 1: [0]})
    assert len(once.trainable_variables) == len([v for v in once.weights if v.dtype != "int32"])
    twice.save(tmp_path / "text.keras")
    loaded = keras.models.load_model(tmp_path / "text.keras")
    for again in (twice, loaded):
        np.testing.assert_array_equal(embedded(again, "text"), embedded(at_once, "text"))


def test_replicas_share_experts_of_which_blocks_have_different_numbers():
    def make(expert_mesh):
        return tiny.limoe(plan=("sparse", "sparse"), num_experts=(4, 6), expert_mesh=expert_mesh)

    assert experiment.replica_mesh(make, 4).num_shards == 2
