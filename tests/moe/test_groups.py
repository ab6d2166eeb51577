"""A batch that ends with a smaller group is routed as its groups would be alone."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.moe import groups
from tests.moe.test_sparse import PADDED, VALID, draw_streams, make_layer

SIZE = 4  # Of the six examples of a batch, two are left.


def make_pair(first, second):
    """Two layers of these options, with the same weights."""
    layers = make_layer(**first), make_layer(**second)
    for variable, value in zip(*(layer.weights for layer in layers), strict=True):
        variable.assign(value)
    return layers


def part(values, where):
    return {name: None if value is None else value[where] for name, value in values.items()}


@pytest.mark.parametrize("valid", [VALID, PADDED], ids=["all valid", "padded"])
@pytest.mark.parametrize("static", [True, False])
def test_the_last_group_is_routed_alone_with_slots_in_proportion(valid, static):
    layer = make_layer(group_size=SIZE, capacity_factor=0.5)
    streams = draw_streams()
    call = tf.function(lambda s, v: layer(s, v, training=True), reduce_retracing=True)
    if static:
        updates, report = call(streams, valid)
    else:
        flags = {"image": tf.ones([6, 5], bool), "text": valid["text"]}
        flags["text"] = tf.ones([6, 3], bool) if flags["text"] is None else flags["text"]
        specs = [
            {name: tf.TensorSpec([None, *v.shape[1:]], v.dtype) for name, v in values.items()}
            for values in (streams, flags)
        ]
        updates, report = call.get_concrete_function(*specs)(streams, flags)
    for where in (slice(0, SIZE), slice(SIZE, 6)):
        alone, _ = layer(part(streams, where), part(valid, where), training=True)
        for name, value in alone.items():
            np.testing.assert_allclose(updates[name][where], value, atol=1e-5)
    assert updates["image"].shape == (6, 5, 7)
    assert 0.2 < float(report.metrics["success_rate_image"]) < 1.0


def test_experts_on_a_mesh_route_the_smaller_group_alike():
    options, streams = {"group_size": SIZE, "capacity_factor": 0.5}, draw_streams()
    sharded, whole = make_pair({**options, "expert_mesh": "expert:2"}, options)
    found, _ = sharded(streams, PADDED, training=True)
    expected, _ = whole(streams, PADDED, training=True)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_padding_counts_in_no_mean():
    options, streams = {"capacity_factor": 9.0}, draw_streams()
    layer, ungrouped = make_pair({**options, "group_size": SIZE}, options)
    _, report = layer(streams, VALID, training=True)
    # No token is dropped, and what is lacking in the last group is no token: 6 x 5 and 6 x 3.
    assert float(tf.reduce_sum(report.metrics["tokens_image"])) == 30
    assert float(tf.reduce_sum(report.metrics["tokens_text"])) == 18
    _, expected = ungrouped(streams, VALID, training=True)
    assert set(report.losses) == set(expected.losses)
    np.testing.assert_allclose(report.losses["z"], expected.losses["z"], rtol=1e-5)


def test_whole_groups_are_left_as_they_are():
    streams = draw_streams()
    for group_size in (None, 3):
        same, flags = groups.filled(streams, VALID, group_size=group_size)
        assert same is streams and flags is VALID
    assert groups.cut(streams, 6)["image"] is streams["image"]
    longer, flags = groups.filled(streams, PADDED, group_size=SIZE)
    assert longer["text"].shape == (8, 3, 7) and not np.any(flags["text"][6:])
