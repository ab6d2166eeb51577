"""Expert pruning of VL-MoE: one modality loses experts, and all streams are there as before."""

import keras
import numpy as np
import pytest

from limoe_tf.evaluate import prune
from tests.shared import tiny
from tests.shared.masked import assert_equal, encoded, part, shaken, shown
from tpu_jobs import experiment

SPARSE = ("sparse", "sparse")
OTHER = {"image": "text", "text": "image"}


def batch():
    """Pairs, images alone and texts alone, of which nothing is masked."""
    return shown(tiny.masked_tensors())


def with_unused_experts(modality, unused, **changes):
    """A model whose tokens give some experts gates of exp(-200), which is zero in float32."""
    model = shaken(tiny.vlmoe(plan=SPARSE, num_experts=5, **changes))
    for block in model.encoder.blocks:
        feed_forwards = block.feed_forward
        layer = getattr(feed_forwards, modality)
        # The first entry of each token is 1, so that the kernel's first row is a bias.
        norm = feed_forwards.norms[feed_forwards.layers.index(layer)]
        gamma, beta = (variable.numpy() for variable in norm.weights)
        gamma[0], beta[0] = 0, 1
        norm.set_weights([gamma, beta])
        (kernel,) = layer.router.kernels
        value = kernel.numpy()
        value[0] = [-200 if expert in unused else 0 for expert in range(5)]
        kernel.assign(value)
    return model


@pytest.mark.parametrize(
    "modality, options",
    [("text", {}), ("image", {"num_choices": 2}), ("text", {"route_together": True})],
)
def test_without_the_experts_that_no_token_uses_nothing_changes(modality, options, tmp_path):
    model = with_unused_experts(modality, (0, 3), **options)
    shares = prune.shares(model, [batch()], modality=modality)
    assert list(shares) == [0, 1]
    for share in shares.values():
        assert share[0] == share[3] == 0 and share.sum() == pytest.approx(1)
    smaller = prune.pruned(model, modality=modality, kept={0: [1, 2, 4], 1: [1, 2, 4]})
    smaller.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for found in (smaller, loaded):
        assert_equal(encoded(found, batch()), encoded(model, batch()))
    counts = {name: list(of) for name, of in loaded.get_config()["num_experts"].items()}
    assert counts == {modality: [3, 3], OTHER[modality]: [5, 5]}


def test_the_other_modality_alone_is_exactly_what_it_was():
    model = shaken(tiny.vlmoe(plan=SPARSE))
    smaller = prune.pruned(model, modality="text", kept={0: [2], 1: [3]})
    lone = part(batch(), "lone_image")
    assert_equal(encoded(smaller, lone), encoded(model, lone), atol=0)
    lone = part(batch(), "lone_text")
    changed = encoded(smaller, lone)["text"] - encoded(model, lone)["text"]
    assert np.abs(changed).max() > 1e-3


def test_the_smaller_model_has_the_parameters_that_it_should():
    model = tiny.vlmoe(plan=SPARSE)
    smaller = prune.pruned(model, modality="text", kept={0: [1, 3], 1: [2]})
    # D 12, F 16: 5 of 8 experts of texts less, each with its column of the router.
    expert = 12 * 16 + 16 + 16 * 12 + 12
    assert model.num_parameters - smaller.num_parameters == 5 * (expert + 12)
    # Once more, of images.
    again = prune.pruned(smaller, modality="image", kept={0: [0], 1: [0, 1, 2]})
    assert smaller.num_parameters - again.num_parameters == 4 * (expert + 12)
    assert again.encoder.blocks[0].feed_forward.text.num_experts == 2


def test_it_belongs_with_the_same_codebook():
    model = tiny.vlmoe(plan=SPARSE)
    smaller = prune.pruned(model, modality="text", kept={0: [1, 3], 1: [2]})
    assert smaller.companions == model.companions != {}
    images = tiny.masked_tensors()["image"]
    np.testing.assert_array_equal(smaller.patch_targets(images), model.patch_targets(images))


@pytest.mark.parametrize("together", [False, True])
def test_pairs_count_where_they_are_among_the_batches(together):
    model = shaken(tiny.vlmoe(plan=SPARSE, route_together=together))
    lone, pairs = part(batch(), "lone_text"), part(batch(), "pair")
    taken = {
        name: value.numpy()
        for one in (lone, pairs)
        for name, value in model(one)[1].metrics.items()
        if "/tokens_" in name and name.endswith("text")
    }
    alone = prune.shares(model, [lone], modality="text")[0]
    of_lone = taken["block_00/text/tokens_text"]
    np.testing.assert_allclose(alone, of_lone / of_lone.sum(), rtol=1e-6)
    both = prune.shares(model, [lone, pairs], modality="text")
    total = of_lone + taken["block_00/pair_text/tokens_pair_text"]
    np.testing.assert_allclose(both[0], total / total.sum(), rtol=1e-6)
    # In the last block pairs have a dense feed-forward.
    last = taken["block_01/text/tokens_text"]
    np.testing.assert_allclose(both[1], last / last.sum(), rtol=1e-6)


def test_what_makes_no_sense_is_refused():
    model = tiny.vlmoe()
    with pytest.raises(ValueError, match="`modality` must be one of 'image', 'text'. .*'pair'"):
        prune.shares(model, [], modality="pair")
    with pytest.raises(ValueError, match=r"each of the sparse blocks \[1\]. Received: {0: \[1\]}"):
        prune.pruned(model, modality="image", kept={0: [1]})
    with pytest.raises(ValueError, match="`kept, experts of .*text.*between 0 and 3. .*=4"):
        prune.pruned(model, modality="text", kept={1: [4]})
    with pytest.raises(ValueError, match="must be a dict of 'image' and 'text'. .*'texts': 3"):
        tiny.vlmoe(num_experts={"image": 4, "texts": 3})


def test_replicas_share_experts_of_which_modalities_have_different_numbers():
    def make(expert_mesh):
        numbers = {"image": 4, "text": (2, 6)}
        return tiny.vlmoe(plan=SPARSE, num_experts=numbers, expert_mesh=expert_mesh)

    assert experiment.replica_mesh(make, 4).num_shards == 2
