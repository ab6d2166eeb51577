import keras
import numpy as np
import pytest

from limoe_tf.analyze.findings import find
from limoe_tf.analyze.routes import routes_of, sparse_layers
from tests.shared import tiny


def test_routes_agree_with_the_report_of_the_layer():
    model = tiny.limoe(capacity_factor=1.0, num_choices=2, router_noise=0.0)
    with routes_of(model) as routes:
        found = routes(tiny.batch())["block_01"]
    # Without noise the Report of training is that of the training capacity, too.
    report = model(tiny.tensors(), training=True)[1].metrics
    for name, num_tokens in (("image", 4), ("text", 5)):
        expert, kept = found[name].expert, found[name].kept
        assert expert.shape == kept.shape == found[name].gate.shape == (6, num_tokens, 2)
        taken = np.bincount(expert[kept], minlength=4)
        np.testing.assert_array_equal(taken, report[f"block_01/tokens_{name}"])
        assert 0 < kept.mean() < 1
        np.testing.assert_allclose(
            found[name].entropy, report[f"block_01/marginal_entropy_{name}"], rtol=1e-5
        )
        assert (found[name].gate[..., 0] >= found[name].gate[..., 1]).all()


def test_ranks_are_places_in_the_order_of_the_group():
    model = tiny.limoe(dispatch_order="first_in_text_first", group_size=2)
    with routes_of(model) as routes:
        found = routes(tiny.batch())["block_01"]
    # A group has 2 x 5 text tokens, and then 2 x 4 of images: places 0 to 17.
    for first in (0, 2, 4):
        np.testing.assert_allclose(
            found["text"].rank[first : first + 2].ravel(), np.arange(10) / 17, rtol=1e-6
        )
        np.testing.assert_allclose(
            found["image"].rank[first : first + 2].ravel(), np.arange(10, 18) / 17, rtol=1e-6
        )


def test_padding_that_nobody_routes_has_no_expert_and_comes_last():
    model, batch = tiny.limoe(mask_padding=True), tiny.batch()
    with routes_of(model) as routes:
        found = routes(batch)["block_01"]
    valid = batch["text_valid"]
    assert not valid.all()
    np.testing.assert_array_equal(found["text"].expert[..., 0] >= 0, valid)
    ranks = np.concatenate([found["text"].rank[valid], found["image"].rank.ravel()])
    np.testing.assert_allclose(np.sort(ranks), np.linspace(0, 1, len(ranks)), atol=1e-6)


def test_the_model_is_as_before_even_after_an_error():
    model = tiny.limoe(capacity_factor=0.5)
    before, report = model(tiny.tensors(), training=False)
    with pytest.raises(OSError, match="gone"), routes_of(model) as routes:
        routes(tiny.batch())
        raise OSError("gone")
    after, report_after = model(tiny.tensors(), training=False)
    assert set(report_after.metrics) == set(report.metrics)
    np.testing.assert_array_equal(after["image"], before["image"])
    assert report_after.metrics["block_01/success_rate_image"] == 1.0


def test_pools_of_experts_are_layers_of_their_own():
    model = tiny.limoe(routing="experts_per_modality")
    assert list(sparse_layers(model)) == ["block_01/image", "block_01/text"]
    with routes_of(model) as routes:
        found = routes(tiny.batch())
    assert {layer: list(of) for layer, of in found.items()} == {
        "block_01/image": ["image"],
        "block_01/text": ["text"],
    }
    assert found["block_01/text"]["text"].expert.max() < 2


def test_several_replicas_say_what_one_says():
    options = dict(group_size=2, capacity_factor=0.8)
    with routes_of(tiny.limoe(**options)) as routes:
        expected = routes(tiny.batch(8))["block_01"]
    keras.utils.set_random_seed(0)
    with tiny.strategy_of(2).scope():
        model = tiny.limoe(**options)
    with routes_of(model) as routes:
        found = routes(tiny.batch(8))["block_01"]
    for name in ("image", "text"):
        np.testing.assert_array_equal(found[name].expert, expected[name].expert)
        np.testing.assert_array_equal(found[name].kept, expected[name].kept)


def test_every_token_is_counted_once():
    batches = [tiny.tensors(6), tiny.tensors(5, seed=1)]
    found, count = find(tiny.limoe(group_size=2), batches)
    # The last example is without a group.
    assert count == 10
    tallies = found["block_01"].tallies
    assert tallies["image"].chosen.sum(axis=0).tolist() == [10] * 4
    pieces, valid = (
        np.concatenate([b[name] for b in batches])[:10] for name in ("text", "text_valid")
    )
    expected = np.bincount(np.where(valid, pieces, 19).ravel(), minlength=20)
    np.testing.assert_array_equal(tallies["text"].chosen.sum(axis=0), expected)
    assert [len(found["block_01"].patches.of(expert)) for expert in range(4)] != [0] * 4


def test_what_cannot_be_looked_into_is_an_error():
    with pytest.raises(ValueError, match="`model` must have sparse blocks"):
        find(tiny.two_tower(), [tiny.tensors()])
    with pytest.raises(ValueError, match="`batches` must hold a batch of at least 4"):
        find(tiny.limoe(group_size=4), [tiny.tensors(3)])


@pytest.mark.parametrize("together", [False, True])
def test_each_stream_of_a_modality_has_routes_of_its_own(together):
    options = dict(plan=("sparse", "sparse"), capacity_factor=0.5, router_noise=0.0)
    model = tiny.vlmoe(route_together=together, **options)
    batch = tiny.masked_tensors()
    with routes_of(model) as routes:
        found = routes(batch)
    # In the second block pairs take a dense feed-forward.
    assert {layer: sorted(of) for layer, of in found.items()} == {
        "block_00/image": ["image", "pair_image"],
        "block_00/text": ["pair_text", "text"],
        "block_01/image": ["image"],
        "block_01/text": ["text"],
    }
    report = model(batch, training=True)[1].metrics
    for stream, (layer, alone) in {
        "pair_text": ("block_00/text", "block_00/pair_text"),
        "pair_image": ("block_00/image", "block_00/pair_image"),
        "text": ("block_01/text", "block_01/text"),
    }.items():
        one, name = found[layer][stream], layer if together else alone
        taken = np.bincount(one.expert[one.kept], minlength=4)
        np.testing.assert_array_equal(taken, report[f"{name}/tokens_{stream}"])
        rate = one.kept.sum() / (one.expert >= 0).sum()
        assert rate == pytest.approx(float(report[f"{name}/success_rate_{stream}"]), rel=1e-6)
        assert rate < 1


@pytest.mark.parametrize("together", [False, True])
def test_every_token_of_every_stream_is_counted_once(together):
    model = tiny.vlmoe(plan=("sparse", "dense"), route_together=together)
    batch = tiny.masked_tensors()
    found, count = find(model, [batch, batch])
    assert count == 12
    # 16 patches and a class token, which has no place.
    of_images = found["block_00/image"].tallies
    for stream in ("image", "pair_image"):
        assert of_images[stream].chosen.sum(axis=0).tolist() == [12] * 17
    for stream, key in (("text", "lone_text"), ("pair_text", "text")):
        chosen = found["block_00/text"].tallies[stream].chosen.sum(axis=0)
        shown = batch[f"{key}_shown"].numpy()[batch[f"{key}_valid"].numpy()]
        # The class token has the id 20; padding is not routed.
        expected = 2 * np.bincount([*shown, *[20] * 6], minlength=22)
        np.testing.assert_array_equal(chosen, expected)
    both = found["block_00/text"].of_modality("text").chosen
    np.testing.assert_array_equal(
        both, sum(tally.chosen for tally in found["block_00/text"].tallies.values())
    )
    assert found["block_00/text"].of_modality("image") is None


def test_streams_that_no_batch_has_are_left_out():
    batch = tiny.masked_tensors()
    lone = {name: value for name, value in batch.items() if name.startswith("lone_text")}
    found, count = find(tiny.vlmoe(), [lone])
    assert count == 6
    assert {layer: list(one.tallies) for layer, one in found.items()} == {"block_01/text": ["text"]}
