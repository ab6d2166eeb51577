"""What every layer promises, in one table: shapes, both precisions, gradients, XLA, configs.

Sizes are primes, or tell themselves apart otherwise: B 3 examples, N 9 patches and 7 word pieces,
D 22 in A 2 heads, F 17, E 5 experts, K 2 choices, Z 13, a vocabulary of 19.
"""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.model.attention import SelfAttention
from limoe_tf.model.block import Block
from limoe_tf.model.embed import PatchEmbed, WordEmbed
from limoe_tf.model.encoder import Encoder
from limoe_tf.model.feedforward import DenseFeedForward
from limoe_tf.model.heads import Head
from limoe_tf.model.per_stream import PerStream
from limoe_tf.moe.experts import Experts
from limoe_tf.moe.router import Router
from limoe_tf.moe.sparse import SparseFeedForward
from limoe_tf.tokens import Layout

B, PATCHES, PIECES, D, A, F, E, K, Z, VOCABULARY = 3, 9, 7, 22, 2, 17, 5, 2, 13, 19
LENGTHS = {"image": PATCHES, "text": PIECES}
STREAM, STREAMS = (None, None, D), {"image": (None, None, D), "text": (None, None, D)}


def draw(*shape):
    return tf.constant(np.random.default_rng(shape).normal(size=shape), tf.float32)


def valid(length):
    """The examples have 1, 4 and 7 valid tokens."""
    return tf.constant(np.arange(length) < np.array([[1], [4], [7]]))


def streams():
    return {name: draw(B, length, D) for name, length in LENGTHS.items()}


def flags():
    return {"image": None, "text": valid(PIECES)}


def groups():
    """Tokens of three groups of one example, and where they stand."""
    shapes = {name: (B, length) for name, length in LENGTHS.items()}
    return draw(B, PATCHES + PIECES, D), Layout(shapes, LENGTHS)


def ids():
    return tf.constant(np.random.default_rng(0).integers(0, VOCABULARY, [B, PIECES]), tf.int32)


def sparse(**changes):
    return SparseFeedForward(F, **{"num_experts": E, "num_choices": K, **changes})


def encoder():
    """All experts are chosen and have room, so that no rounding decides who goes where."""
    all_experts = sparse(num_choices=E, capacity_factor=E, routers="per_modality")
    return Encoder([Block(A, all_experts)])


def call_router(layer):
    tokens, layout = groups()
    return layer(tokens, layout=layout, training=True)


def call_packed(layer):
    return layer(draw(29, D), sizes=tf.constant([3, 0, 11, 2, 7]), training=True)


def call_streams(layer):
    return layer(streams(), flags(), training=True)


# Each: how it is made, the shape it is built for, how it is called.
LAYERS = {
    "patch_embed": (
        lambda: PatchEmbed(D, patch_size=5, image_size=15), None,
        lambda layer: layer(draw(B, 15, 15, 3)),
    ),
    "word_embed": (
        lambda: WordEmbed(D, vocabulary_size=VOCABULARY, text_length=PIECES), None,
        lambda layer: layer(ids()),
    ),
    "attention": (
        lambda: SelfAttention(A), STREAM, lambda layer: layer(draw(B, PIECES, D), valid(PIECES)),
    ),
    "attention_in_chunks": (
        lambda: SelfAttention(A, chunks=B), STREAM,
        lambda layer: layer(draw(B, PIECES, D), valid(PIECES)),
    ),
    "head": (lambda: Head(Z), STREAM, lambda layer: layer(draw(B, PIECES, D), valid(PIECES))),
    "dense": (lambda: DenseFeedForward(F), STREAMS, call_streams),
    "router": (lambda: Router(E, seed=3), STREAM, call_router),
    "routers": (lambda: Router(E, modalities=["image", "text"]), STREAM, call_router),
    "experts": (lambda: Experts(E, F), STREAM, lambda layer: layer(draw(E, 11, D), training=True)),
    "experts_packed": (lambda: Experts(E, F, same_init=False), STREAM, call_packed),
    "sparse": (sparse, STREAMS, call_streams),
    "sparse_random": (
        lambda: sparse(dispatch_order="random", group_size=1, num_choices=1, router_noise=2.0),
        STREAMS, call_streams,
    ),
    "block": (lambda: Block(A, DenseFeedForward(F)), STREAMS, call_streams),
    "per_stream": (
        lambda: PerStream({"image": DenseFeedForward(F), "text": DenseFeedForward(2)}),
        STREAMS, call_streams,
    ),
    "encoder": (encoder, STREAMS, call_streams),
}  # fmt: skip
# The packed form has shapes that depend on values; XLA is given the other.
COMPILED = [name for name in LAYERS if name != "experts_packed"]
# In half precision XLA compiles each kind of computation once, not also what is made of them.
COMPILED_IN_HALF = ("patch_embed", "word_embed", "attention", "head", "dense", "experts", "sparse")
both_policies = pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])


def make(name, policy):
    """The layer, with weights that are all different from zero and one."""
    keras.mixed_precision.set_dtype_policy(policy)
    layer = LAYERS[name][0]()
    layer.build(LAYERS[name][1])
    keras.mixed_precision.set_dtype_policy("float32")  # The layer knows its own.
    for number, variable in enumerate(layer.trainable_variables):
        variable.assign_add(0.1 * draw(number + 1, *variable.shape)[-1])
    return layer


def results_and_gradients(name, layer):
    """All floats that a call returns, and gradients of a loss that weighs each differently."""
    variables = [variable.value for variable in layer.trainable_variables]
    with tf.GradientTape() as tape:
        results = [r for r in tf.nest.flatten(LAYERS[name][2](layer)) if r.dtype.is_floating]
        terms = [tf.reduce_sum(tf.cast(r, tf.float32) * draw(*r.shape)) for r in results]
        loss = tf.add_n(terms)
    gradients = tape.gradient(loss, variables)
    return results, [None if g is None else tf.convert_to_tensor(g) for g in gradients]


def run(name, layer, **options):
    """As `results_and_gradients`, in a graph if there are options, with the first draw of noise."""
    for variable in layer.non_trainable_variables:
        variable.assign(tf.zeros_like(variable))
    compute = results_and_gradients
    if options:
        compute = tf.function(results_and_gradients, autograph=False, **options)
    return compute(name, layer)


@functools.cache
def eager(name, policy):
    """A layer, its results and its gradients, which several tests look at."""
    layer = make(name, policy)
    return layer, *run(name, layer)


def assert_close(found, expected, tolerance):
    for value, wanted in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        assert value.dtype == wanted.dtype and value.shape == wanted.shape
        value, wanted = (np.asarray(x, "float32") for x in (value, wanted))
        np.testing.assert_allclose(value, wanted, rtol=0, atol=tolerance * (1 + abs(wanted).max()))


@both_policies
@pytest.mark.parametrize("name", LAYERS)
def test_every_weight_has_a_gradient(name, policy):
    layer, results, gradients = eager(name, policy)
    assert all(np.isfinite(np.asarray(r, "float32")).all() for r in results)
    assert layer.trainable_variables
    for variable, gradient in zip(layer.trainable_variables, gradients):
        size = float(tf.norm(tf.cast(gradient, tf.float32)))
        assert variable.dtype == "float32" and np.isfinite(size)
        # A bias of the keys adds the same to all scores of a query, which no softmax can see.
        assert size > 1e-3 or variable.path.endswith("key/bias"), variable.path


@both_policies
@pytest.mark.parametrize("name", LAYERS)
def test_graphs_and_xla_give_the_eager_results_and_gradients(name, policy):
    layer, *expected = eager(name, policy)
    in_half = policy == "mixed_bfloat16"
    tolerance = 0.05 if in_half else 1e-5
    assert_close(run(name, layer, jit_compile=False), expected, tolerance)
    if name in (COMPILED_IN_HALF if in_half else COMPILED):
        assert_close(run(name, layer, jit_compile=True), expected, tolerance)


@both_policies
@pytest.mark.parametrize("name", LAYERS)
def test_the_config_makes_the_same_layer_again(name, policy):
    layer, *expected = eager(name, policy)
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert json.dumps(keras.saving.serialize_keras_object(again)) == json.dumps(config)
    again.set_weights(layer.get_weights())
    assert_close(run(name, again), expected, 0)


# What is float32 under any policy: gates, embeddings and Reports.
@pytest.mark.parametrize("name", LAYERS)
def test_results_have_the_promised_precision_and_static_shapes(name):
    layer, *_ = eager(name, "mixed_bfloat16")
    traced = tf.function(lambda: LAYERS[name][2](layer), autograph=False)
    results = traced.get_concrete_function().structured_outputs
    streams, report = results if isinstance(results, tuple) and len(results) == 2 else (results, ())
    in_float32 = name in ("head", "router", "routers")
    for tensor in tf.nest.flatten(streams):
        assert tensor.shape.is_fully_defined()
        assert tensor.dtype == ("float32" if in_float32 else "bfloat16")
    for tensor in tf.nest.flatten(report):
        assert tensor.dtype == "float32" and tensor.shape in ([], [E])
