"""Replicas exchange in a loop whose length is a value."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh import replicas
from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.mesh.loop import repeat
from limoe_tf.moe.sparse import SparseFeedForward
from tests.shared import tiny


def body(number, total, own):
    """Adds the mean over replicas of what each has, then doubles what it has."""
    del number
    return [total + replicas.current().mean(own), 2 * own]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_one_replica_repeats_as_often_as_it_is_told(jit_compile):
    @tf.function(jit_compile=jit_compile)
    def run(stop):
        return repeat(body, [tf.constant(0.0), tf.constant(1.0)], start=1, stop=stop)

    # From 1 to 4, the last not included: 1 + 2 + 4; none at all leaves what was given.
    assert [x.numpy() for x in run(4)] == [7, 8]
    assert [x.numpy() for x in run(1)] == [0, 1]


@pytest.mark.parametrize("mesh", [None, "data:2;expert:2"])
def test_replicas_exchange_in_every_round(mesh):
    count = 4
    strategy = tiny.strategy_of(count)
    mesh = ExpertMesh(mesh or "data:4", spans="replicas")

    def on_replica(stop):
        with replicas.scope(replicas.of_strategy(mesh)) as context:
            own = tf.cast(context.index, tf.float32)
            return repeat(body, [tf.constant(0.0), own], start=0, stop=stop)

    run = tf.function(lambda stop: strategy.run(on_replica, (stop,)), autograph=False)
    totals, owns = (strategy.experimental_local_results(x) for x in run(tf.constant(3)))
    # The means of 0, 1, 2, 3 and of their doubles: 1.5 + 3 + 6.
    assert [total.numpy() for total in totals] == [10.5] * count
    assert [own.numpy() for own in owns] == [0, 8, 16, 24]


def test_experts_on_replicas_drop_nothing_though_one_replica_needs_more_rounds():
    mesh, width, experts = ExpertMesh("expert:4", spans="replicas"), 5, 8
    streams = np.random.default_rng(0).normal(size=[4, 16, width]).astype("float32")
    streams[0] = np.abs(streams[0])  # All tokens of the first replica go to expert 3.

    def made(mesh):
        keras.utils.set_random_seed(0)
        layer = SparseFeedForward(
            6, num_experts=experts, capacity_factor=None, router_noise=0.0, expert_mesh=mesh
        )
        layer.build({"image": (None, None, width)})
        layer.router.kernels[0].assign(tf.one_hot([3] * width, experts, on_value=9.0))
        return layer

    def step(layer, image):
        with tf.GradientTape() as tape:
            tape.watch(image)
            outputs, report = layer({"image": image}, {"image": None}, training=True)
            loss = tf.reduce_sum(outputs["image"] ** 2)
        weights = [layer.router.kernels[0].value, layer.experts.bias_out.value]
        to_image, to_router, to_bias = tape.gradient(loss, [image, *weights])
        return outputs["image"], to_image, to_router, to_bias, report.metrics["tokens_image"]

    wanted = step(made(None), tf.constant(streams))
    strategy = tiny.strategy_of(4)
    with strategy.scope():
        layer = made(mesh)
    shares = strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(streams[context.replica_id_in_sync_group :][:1])
    )

    def on_replica(image):
        with replicas.scope(replicas.of_strategy(mesh)):
            return step(layer, image)

    found = tf.function(lambda x: strategy.run(on_replica, (x,)), autograph=False)(shares)
    found = [[p.numpy() for p in strategy.experimental_local_results(x)] for x in found]
    joined = [
        np.concatenate(found[0]), np.concatenate(found[1]), sum(found[2]), np.concatenate(found[3]),
        found[4][0],
    ]  # fmt: skip
    for value, other in zip(joined, wanted, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-4, atol=1e-5)
    assert wanted[4][3] > 16
