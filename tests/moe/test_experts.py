"""The experts: both forms of rows against a loop over experts, initial values, names."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.mesh.expert_mesh import ExpertMesh
from limoe_tf.moe.experts import Experts, PerExpert
from limoe_tf.moe.mlp import packed_mlp, padded_mlp

E, M, D, F = 3, 5, 4, 6
SIZES = [4, 0, 7]  # an expert without any row among them
ROWS = 13  # two rows belong to no expert


def draw(shape, seed=0):
    return tf.constant(np.random.default_rng([seed, *shape]).normal(size=shape), tf.float32)


def draw_weights():
    return [draw(shape) for shape in ([E, D, F], [E, F], [E, F, D], [E, D])]


def mlp_by_formula(x, kernel_in, bias_in, kernel_out, bias_out):
    """One expert on its rows, in plain operations that TensorFlow differentiates by itself."""
    hidden = tf.einsum("md,df->mf", x, kernel_in) + bias_in
    hidden *= 0.5 * (1 + tf.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    return tf.einsum("mf,fd->md", hidden, kernel_out) + bias_out


def padded_by_loop(buffers, *weights):
    return tf.stack([mlp_by_formula(buffers[e], *(w[e] for w in weights)) for e in range(E)])


def packed_by_loop(rows, *weights):
    parts, start = [], 0
    for e, size in enumerate(SIZES):
        parts.append(mlp_by_formula(rows[start : start + size], *(w[e] for w in weights)))
        start += size
    return tf.concat([*parts, tf.zeros([ROWS - start, D])], axis=0)


def outputs_and_gradients(function, inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
        loss = tf.reduce_sum(outputs * draw(outputs.shape, seed=1))
    return [outputs, *tape.gradient(loss, inputs)]


def assert_close(results, expected):
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("num_rows", [M, 40])  # few go through one matmul, many through E
def test_buffers_give_the_values_and_gradients_of_a_loop_over_experts(training, num_rows):
    inputs = [draw([E, num_rows, D]), *draw_weights()]
    results = outputs_and_gradients(lambda *args: padded_mlp(*args, training=training), inputs)
    assert_close(results, outputs_and_gradients(padded_by_loop, inputs))


@pytest.mark.parametrize("training", [False, True])
def test_packed_rows_give_the_values_and_gradients_of_a_loop_over_experts(training):
    inputs = [draw([ROWS, D]), *draw_weights()]
    results = outputs_and_gradients(
        lambda rows, *weights: packed_mlp(rows, tf.constant(SIZES), *weights, training=training),
        inputs,
    )
    assert_close(results, outputs_and_gradients(packed_by_loop, inputs))
    rest = slice(sum(SIZES), None)
    assert not results[0][rest].numpy().any() and not results[1][rest].numpy().any()
    for to_weight in results[2:]:
        assert not to_weight[1].numpy().any()  # the expert without rows learns nothing


def test_xla_gives_the_values_and_gradients_of_a_loop_over_experts():
    inputs = [draw([E, M, D]), *draw_weights()]
    compute = tf.function(outputs_and_gradients, jit_compile=True)
    results = compute(lambda *args: padded_mlp(*args, training=True), inputs)
    assert_close(results, outputs_and_gradients(padded_by_loop, inputs))


def test_the_layer_computes_both_forms_with_its_own_weights():
    layer = Experts(E, F, same_init=False)
    layer.build((E, None, D))
    weights = [w.value for w in (layer.kernel_in, layer.bias_in, layer.kernel_out, layer.bias_out)]
    buffers, rows = draw([E, M, D]), draw([ROWS, D])
    assert_close([layer(buffers)], [padded_by_loop(buffers, *weights)])
    assert_close([layer(rows, sizes=tf.constant(SIZES))], [packed_by_loop(rows, *weights)])


def test_weights_are_named_by_what_the_optimizer_looks_for():
    layer = Experts(E, F)
    layer.build((E, None, D))
    found = {weight.path: tuple(weight.shape) for weight in layer.weights}
    assert found == {
        "experts/kernel_in": (E, D, F),
        "experts/bias_in": (E, F),
        "experts/kernel_out": (E, F, D),
        "experts/bias_out": (E, D),
    }


@pytest.mark.parametrize("same", [True, False])
def test_experts_start_alike_or_each_by_itself(same):
    layer = Experts(4, 50, same_init=same)
    layer.build((4, None, 30))
    for weight in (layer.kernel_in, layer.kernel_out, layer.bias_in, layer.bias_out):
        values = weight.numpy()
        for e in range(1, 4):
            assert (values[e] == values[0]).all() == same
            assert (values[e] == values[0]).any() == same
    assert (layer.kernel_in.numpy()[0] != layer.kernel_out.numpy()[0].T).all()
    # Glorot of one expert: uniform within sqrt(6 / (30 + 50)), its std that over sqrt 3.
    limit = math.sqrt(6 / 80)
    for kernel in (layer.kernel_in.numpy(), layer.kernel_out.numpy()):
        assert abs(kernel).max() < limit
        np.testing.assert_allclose(kernel.std(axis=(1, 2)), limit / math.sqrt(3), rtol=0.06)
    assert 0 < abs(layer.bias_in.numpy()).max() < 1e-5


def test_two_layers_start_differently():
    layers = [Experts(E, F) for _ in range(2)]
    for layer in layers:
        layer.build((E, None, D))
    assert (layers[0].kernel_in.numpy() != layers[1].kernel_in.numpy()).all()


def test_the_initializer_is_rebuilt_from_its_config():
    glorot = keras.initializers.GlorotUniform(seed=5)
    initializer = PerExpert(glorot, same=False)
    again = PerExpert.from_config(initializer.get_config())
    np.testing.assert_array_equal(again([E, D, F]), initializer([E, D, F]))


def test_bfloat16_experts_keep_float32_weights():
    layer = Experts(E, F, dtype="mixed_bfloat16")
    layer.build((E, None, D))
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    buffers = draw([E, M, D])
    weights = [w.value for w in (layer.kernel_in, layer.bias_in, layer.kernel_out, layer.bias_out)]
    for outputs in (layer(buffers), layer(buffers, training=True)):
        assert outputs.dtype == tf.bfloat16
        # Two matmuls of up to six terms, every number rounded by up to 2**-9 of itself.
        expected = padded_by_loop(buffers, *weights).numpy()
        error = abs(tf.cast(outputs, tf.float32).numpy() - expected).max()
        assert 0 < error < 16 * 2**-9 * abs(expected).max()


def test_padding_is_needed_under_xla_and_on_a_mesh():
    needed = []

    def note():
        needed.append(Experts(E, F).needs_padding)
        return tf.constant(0)

    note()
    tf.function(note, autograph=False).get_concrete_function()
    tf.function(note, autograph=False, jit_compile=True).get_concrete_function()
    assert needed == [False, False, True]
    assert Experts(4, F, expert_mesh="data:1;expert:2").needs_padding
    assert not Experts(4, F, expert_mesh=ExpertMesh()).needs_padding


def test_few_or_narrow_rows_are_not_packed_where_their_number_has_a_bound():
    assert Experts(E, 3072).packs(129) and not Experts(E, 3072).packs(128)
    assert not Experts(E, 2048).packs(129) and Experts(E, 2048).packs(None)


def test_a_mesh_is_a_property_of_the_process():
    layer = Experts(4, F, expert_mesh="data:1;expert:2")
    assert layer.sharded and not layer.supports_jit
    again = Experts.from_config(layer.get_config())
    assert not again.sharded and again.get_config() == layer.get_config()


def test_experts_that_the_mesh_cannot_split_are_refused():
    with pytest.raises(ValueError, match="`num_experts` must be divisible by the size 2"):
        Experts(E, F, expert_mesh="data:1;expert:2")
    with pytest.raises(ValueError, match="`hidden_width` must be at least 1. Received"):
        Experts(E, 0)
