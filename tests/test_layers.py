"""The public layers in Keras: its own test of layers, its wrapper, its summary, its policies."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src import testing

from limoe_tf import layers, regularizers
from tests.shared import tiny

B, N, D, E, F = 4, 5, 6, 3, 7  # examples, tokens, width, experts, hidden width
STREAM = (B, N, D)

# Each: arguments of the constructor, the shape of the input and that of the output.
PUBLIC = {
    layers.Block: (
        {"num_heads": 2, "feed_forward": layers.DenseFeedForward(F)}, STREAM, STREAM,
    ),
    layers.DenseFeedForward: ({"hidden_width": F}, STREAM, STREAM),
    layers.Experts: ({"num_experts": E, "hidden_width": F}, (E, N, D), (E, N, D)),
    layers.Head: ({"embedding_size": 2}, STREAM, (B, 2)),
    layers.PatchEmbed: (
        {"width": D, "patch_size": 2, "image_size": 4}, (B, 4, 4, 3), (B, 4, D),
    ),
    layers.Router: (
        {"num_experts": E, "activity_regularizer": regularizers.ZLoss()},
        STREAM, layers.Gates(*[(B, N, E)] * 4),
    ),
    layers.SelfAttention: ({"num_heads": 2}, STREAM, STREAM),
    layers.SparseFeedForward: (
        {"hidden_width": F, "num_experts": E, "num_choices": 2}, STREAM, STREAM,
    ),
    layers.WordEmbed: (
        {"width": D, "vocabulary_size": 3, "text_length": N}, (B, N), (B, N, D),
    ),
}  # fmt: skip
NUM_LOSSES = {layers.Router: 1, layers.SparseFeedForward: 3}
OF_STREAMS = (
    layers.Block, layers.DenseFeedForward, layers.Head, layers.SelfAttention,
    layers.SparseFeedForward,
)  # fmt: skip
IN_FLOAT32 = (layers.Head, layers.Router)


def make(layer_class, **options):
    return layer_class(**PUBLIC[layer_class][0], **options)


def inputs_of(layer_class, *more):
    shape = (*PUBLIC[layer_class][1][:1], *more, *PUBLIC[layer_class][1][1:])
    if layer_class is layers.WordEmbed:
        return np.arange(np.prod(shape), dtype="int32").reshape(shape) % 3
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_every_public_layer_stands_in_the_table():
    assert {one.__name__ for one in PUBLIC} == set(layers.__all__) - {"Gates"}


@pytest.mark.parametrize("layer_class", PUBLIC)
def test_it_passes_the_test_of_layers_of_keras(layer_class):
    """Config, build, symbolic and eager calls, a step of `fit` with XLA, and mixed precision."""
    values, shape, expected = PUBLIC[layer_class]
    case = testing.TestCase()
    case.setUp()
    case.run_layer_test(
        layer_class,
        values,
        input_shape=shape,
        input_dtype="int32" if layer_class is layers.WordEmbed else "float32",
        expected_output_shape=expected,
        expected_num_losses=NUM_LOSSES.get(layer_class, 0),
        supports_masking=layer_class in OF_STREAMS,
    )


@pytest.mark.parametrize("layer_class", [one for one in PUBLIC if one is not layers.Router])
def test_time_distributed_gives_what_the_layer_gives_to_each_step(layer_class):
    layer, inputs = make(layer_class), inputs_of(layer_class, 2)
    inputs_shape, expected = inputs.shape[1:], PUBLIC[layer_class][2]
    keras_inputs = keras.Input(inputs_shape, batch_size=len(inputs), dtype=inputs.dtype.name)
    outputs = keras.layers.TimeDistributed(layer)(keras_inputs)
    assert outputs.shape == (expected[0], 2, *expected[1:])
    found = keras.Model(keras_inputs, outputs)(inputs)
    for step in range(2):
        np.testing.assert_allclose(found[:, step], layer(inputs[:, step]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer_class", PUBLIC)
def test_shapes_and_precision_are_known_before_anything_is_computed(layer_class):
    layer = make(layer_class, dtype="mixed_bfloat16")
    inputs = inputs_of(layer_class)
    outputs = layer(keras.Input(inputs.shape[1:], batch_size=len(inputs), dtype=inputs.dtype.name))
    expected = PUBLIC[layer_class][2]
    assert layer.compute_output_shape(inputs.shape) == expected
    assert keras.tree.map_structure(lambda x: x.shape, outputs) == expected
    wanted = "float32" if layer_class in IN_FLOAT32 else "bfloat16"
    assert {x.dtype for x in keras.tree.flatten(outputs)} == {wanted}


@pytest.mark.parametrize("outer, inner", [("mixed_bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_block_holds_a_feed_forward_of_another_policy(outer, inner):
    sparse = layers.SparseFeedForward(F, num_experts=E, dtype=inner)
    block, stream = layers.Block(2, sparse, dtype=outer), inputs_of(layers.Block)
    wanted = block.compute_dtype
    assert block(stream).dtype == wanted
    streams, report = block({"image": stream})
    assert streams["image"].dtype == wanted and report.losses["z"].dtype == "float32"
    assert sparse.experts.compute_dtype == inner


def test_a_block_of_a_plain_tensor_is_that_of_one_stream_with_its_mask():
    sparse = layers.SparseFeedForward(F, num_experts=E, modalities=["text"])
    block, stream = layers.Block(2, sparse), inputs_of(layers.Block)
    valid = tf.constant(np.arange(N) < np.array([[1], [3], [5], [5]]))
    expected = block({"text": stream}, {"text": valid}, training=False)[0]["text"]
    model = keras.Sequential([keras.layers.Masking(), block, layers.Head(2)])
    masked = np.where(valid[..., tf.newaxis], stream, 0)
    np.testing.assert_array_equal(block(stream, valid), expected)
    kept = np.asarray(valid)
    found = block(keras.layers.Masking()(masked))
    np.testing.assert_allclose(found[kept], expected[kept], rtol=1e-4, atol=1e-5)
    head = model.layers[-1]
    model(masked)
    np.testing.assert_allclose(model(masked), head(expected, valid), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [tiny.limoe, tiny.two_tower])
def test_a_summary_has_every_shape_and_the_layers_within_layers(model):
    lines = []
    model().summary(print_fn=lambda text, **_: lines.append(text))
    nested = []
    model().summary(print_fn=lambda text, **_: nested.append(text), expand_nested=True)
    for text in ("".join(lines), "".join(nested)):
        assert "(None, 4, 12)" in text and "(None, 5, 12)" in text  # 4 patches, 5 word pieces
        assert "?" not in text
    assert "SelfAttention" in "".join(nested) and "SelfAttention" not in "".join(lines)


@pytest.mark.parametrize(
    "streams, valid, error, message",
    [
        ({"image": (2, 5, 6), "text": (2, 5, 4)}, None, ValueError, "one width for all. .*text"),
        ({"image": (2, 5, 6), "text": (3, 5, 6)}, None, ValueError, "one batch and one width"),
        ({"image": (2, 6)}, None, ValueError, r"shape \(batch, tokens, width\), .*\(2, 6\)"),
        ((2, 6), None, ValueError, r"shape \(batch, tokens, width\), .*\(2, 6\)"),
        ((2, 5, 6, 1), None, ValueError, r"shape \(batch, tokens, width\), .*\(2, 5, 6, 1\)"),
        ((2, 5, 6), np.ones((2, 4), "bool"), ValueError, r"`valid` must have .*\(2, 4\) for \(2,"),
        ((2, 5, 6), np.ones((2, 5), "int32"), TypeError, "`valid` must be bool. .*int32"),
        ({"image": (2, 5, 6)}, {"text": None}, ValueError, "`valid` must name every stream"),
    ],
)
@pytest.mark.parametrize("layer_class", [layers.Block, layers.SparseFeedForward])
def test_streams_of_other_shapes_are_refused_by_one_sentence(
    layer_class, streams, valid, error, message
):
    layer = make(layer_class)
    layer.build((None, None, D))
    zeros = tf.zeros(streams) if isinstance(streams, tuple) else None
    streams = {k: tf.zeros(v) for k, v in streams.items()} if zeros is None else zeros
    with pytest.raises(error, match=message):
        layer(streams, valid)


def test_streams_of_another_width_than_a_layer_was_built_for_are_refused():
    layer = make(layers.SparseFeedForward)
    layer.build((None, None, D))
    with pytest.raises(ValueError, match=r"width=6 that the layer was built for. .*\(2, 5, 9\)"):
        layer(tf.zeros([2, 5, 9]))


def test_a_width_that_is_not_known_is_refused_when_the_layer_is_built():
    with pytest.raises(ValueError, match=r"known width. Received: shape=\(None, 5, None\)"):
        make(layers.SparseFeedForward).build((None, 5, None))
