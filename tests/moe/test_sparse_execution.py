"""How the sparse layer is run: eager, graph, XLA, a mesh of devices, bfloat16, any batch size."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.moe.sparse import SparseFeedForward

B, IMAGES, TEXTS, D, F, E = 6, 5, 3, 7, 11, 4
NO_PADDING = {"image": None, "text": None}
PADDED = {"image": None, "text": tf.constant([[True, True, False]] * B)}
MESHES = ["data:1;expert:4", "data:2;expert:2", "data:2;expert:4"]


def draw_streams(seed=0, examples=B):
    random = np.random.default_rng(seed)
    draw = {"image": (examples, IMAGES, D), "text": (examples, TEXTS, D)}
    return {name: tf.constant(random.normal(size=s), tf.float32) for name, s in draw.items()}


def make_layer(num_experts=E, **options):
    keras.utils.set_random_seed(0)
    layer = SparseFeedForward(
        F, num_experts=num_experts, same_expert_init=False, name="moe", **options
    )
    layer.build({"image": (None, None, D)})
    return layer


def step(layer, streams, valid):
    """Outputs, Report and all gradients of a training step, from the first draw of noise on."""
    layer.router.draws.assign(0)
    variables = {weight.path: weight.value for weight in layer.trainable_weights}
    with tf.GradientTape() as tape:
        tape.watch(streams)
        outputs, report = layer(streams, valid, training=True)
        parts = [tf.reduce_sum(tf.cast(x, tf.float32) ** 2) for x in outputs.values()]
        loss = tf.add_n([*parts, *report.losses.values()])
    return outputs, report, tape.gradient(loss, [variables, streams])


def assert_same(result, expected, tolerance=1e-5):
    """Each tensor within `tolerance` of the other's largest entry, or of 0.1 if that is more."""
    tf.nest.assert_same_structure(result, expected)
    for value, wanted in zip(tf.nest.flatten(result), tf.nest.flatten(expected)):
        assert value.dtype == wanted.dtype
        scale = max(0.1, np.abs(wanted).max())
        np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(
    "valid, options",
    [
        (NO_PADDING, dict(num_choices=1)),
        (PADDED, dict(num_choices=2, routers="per_modality", dispatch_order="random",
                      group_size=2, capacity_factor=0.8)),
    ],
)  # fmt: skip
def test_eager_graph_and_xla_take_the_same_step(valid, options):
    layer, streams = make_layer(**options), draw_streams()
    expected = step(layer, streams, valid)
    assert all(np.abs(gradient).max() > 0 for gradient in tf.nest.flatten(expected[2]))
    assert (expected[1].metrics["success_rate_image"] < 1).numpy()
    for jit_compile in (False, True):
        compiled = tf.function(lambda x: step(layer, x, valid), jit_compile=jit_compile)
        assert_same(compiled(streams), expected)


@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_of_devices_takes_the_step_of_one(mesh):
    options, streams = dict(num_choices=2, num_experts=8, capacity_factor=0.8), draw_streams()
    one, many = make_layer(**options), make_layer(**options, expert_mesh=mesh)
    expected = step(one, streams, PADDED)
    assert_same(tf.function(lambda x: step(many, x, PADDED))(streams), expected)
    # At inference no token is dropped, even if one expert gets them all: tokens above zero and a
    # kernel with a column of tens see to that.
    streams = tf.nest.map_structure(tf.abs, streams)
    for layer in (one, many):
        layer.router.kernels[0].assign(tf.one_hot([3] * D, 8, on_value=10.0))
    result = tf.function(lambda x: many(x, PADDED, training=False))(streams)
    assert result[1].metrics["tokens_image"][3] == B * IMAGES
    assert_same(result, one(streams, PADDED, training=False))


def largest_tensor(function, *args, unknown):
    """Entries of the largest tensor in a function's graph and in those it calls.

    A dimension that depends on values counts as `unknown` entries.
    """
    graph, largest = function.get_concrete_function(*args).graph, 0
    called = graph._functions.values()  # XLA's loops, and what `tf.function` calls
    for part in [graph, *(inner.graph for inner in called)]:
        for operation in part.get_operations():
            for output in operation.outputs:
                assert output.shape.rank is not None, operation
                sizes = [unknown if size is None else size for size in output.shape]
                largest = max(largest, int(np.prod(sizes, dtype=np.int64)))
    return largest


@pytest.mark.parametrize("jit_compile", [False, True])
def test_no_tensor_has_a_place_for_every_token_expert_and_slot(jit_compile):
    # S = 60 (5 + 3) = 480 tokens, K = 2: C = 480 * 2 * 1.05 / 4 = 252. The experts' hidden layer,
    # 4 * 252 * 11 entries, is the largest tensor that has to be; S E C is 43 times that.
    layer, streams = make_layer(num_choices=2), draw_streams(examples=60)
    traced = tf.function(lambda x: step(layer, x, NO_PADDING), jit_compile=jit_compile)
    assert largest_tensor(traced, streams, unknown=480 * 2) <= 4 * 252 * 11

    @tf.function
    def one_hot(slots):  # what the search is for
        return tf.einsum("sec,sd->ecd", tf.one_hot(slots, 252), tf.zeros([480, D]))

    assert largest_tensor(one_hot, tf.zeros([480, 4], tf.int32), unknown=0) == 480 * 4 * 252


def test_a_step_is_traced_once_and_goes_on_drawing_noise():
    layer, traces = make_layer(), []

    @tf.function
    def train(streams):
        traces.append(streams)
        return layer(streams, NO_PADDING, training=True)[0]["image"]

    results = [train(draw_streams(seed)).numpy() for seed in (0, 0, 1)]
    assert len(traces) == 1
    assert layer.router.draws.numpy() == 3
    assert (results[0] != results[1]).any()


@pytest.mark.parametrize("factor, group_size", [(None, None), (1.0, None), (1.0, 2)])
def test_inference_takes_any_number_of_examples_in_one_trace(factor, group_size):
    layer = make_layer(num_choices=2, inference_capacity_factor=factor, group_size=group_size)
    specs = [tf.TensorSpec([None, n, D]) for n in (IMAGES, TEXTS)]
    traces = []

    @tf.function(input_signature=[*specs, tf.TensorSpec([None, TEXTS], tf.bool)])
    def infer(image, text, text_valid):
        traces.append(image)
        valid = {"image": None, "text": text_valid}
        return layer({"image": image, "text": text}, valid, training=False)

    for examples in (2, 4, 6):
        streams = draw_streams(examples=examples)
        valid = {"image": None, "text": PADDED["text"][:examples]}
        result = infer(*streams.values(), valid["text"])
        assert_same(result, layer(streams, valid, training=False))
    assert len(traces) == 1


def test_bfloat16_experts_serve_tokens_that_float32_has_routed():
    streams = draw_streams()
    rounded = {n: tf.cast(tf.cast(x, tf.bfloat16), tf.float32) for n, x in streams.items()}
    expected, report = make_layer(num_choices=2)(rounded, PADDED, training=True)
    mixed = make_layer(num_choices=2, dtype="mixed_bfloat16")
    outputs, mixed_report = mixed(streams, PADDED, training=True)
    # Same slots, same losses: only the experts' numbers are coarser.
    assert_same(mixed_report, report, tolerance=1e-5)
    assert {value.dtype for value in tf.nest.flatten(mixed_report)} == {tf.float32}
    for name, stream in outputs.items():
        assert stream.dtype == tf.bfloat16
        error = np.abs(tf.cast(stream, tf.float32) - expected[name]).max()
        # Two matmuls, a weight and a sum of two choices, each rounded by up to 2**-9.
        assert 0 < error < 16 * 2**-9 * np.abs(expected[name]).max()


def test_bfloat16_training_has_float32_gradients_for_every_weight():
    layer = make_layer(num_choices=2, dtype="mixed_bfloat16")
    _, _, (to_weights, _) = step(layer, draw_streams(), NO_PADDING)
    for path, gradient in to_weights.items():
        assert gradient.dtype == tf.float32, path
        assert np.abs(gradient).max() > 0 and np.isfinite(gradient).all(), path
