"""Rounds over small buffers compute every token: as a plain loop, and as one round with room."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.common.variables import AutocastScope

from limoe_tf import tokens
from limoe_tf.moe import rounds
from limoe_tf.moe.assign import Assignment, assign
from limoe_tf.moe.buffers import apply_to_streams
from limoe_tf.moe.experts import Experts
from limoe_tf.moe.sparse import SparseFeedForward

B, IMAGES, TEXTS, D, F, E = 4, 10, 6, 5, 7, 8
T = B * (IMAGES + TEXTS)
# Where the routers send tokens: to all experts about alike, to one, or to two of the eight.
ROUTINGS = ("even", "one", "two")


def draw(shape, seed=0):
    return tf.constant(np.random.default_rng([seed, *shape]).normal(size=shape), tf.float32)


def draw_streams(dtype=tf.float32):
    streams = {"image": draw([B, IMAGES, D]), "text": draw([B, TEXTS, D])}
    return {name: tf.cast(stream, dtype) for name, stream in streams.items()}


def draw_assignment(routing, num_choices):
    """An assignment without a limit of slots, flags with padding, and the layout of the streams."""
    random = np.random.default_rng(1)
    favoured = {"even": [], "one": [3], "two": [3, 5]}[routing]
    logits = random.normal(size=[1, T, E])
    logits[:, : T // 2, favoured[:1]] += 20
    logits[:, T // 2 :, favoured[-1:]] += 20
    valid = {"image": None, "text": tf.constant(random.random([B, TEXTS]) < 0.7)}
    _, flags, layout = tokens.join(draw_streams(), valid)
    assignment = assign(
        tf.nn.softmax(tf.constant(logits, tf.float32)),
        valid=flags,
        priority=draw([1, T]),
        num_choices=num_choices,
        num_slots=None,
    )
    return assignment, layout


def make_experts(**options):
    keras.utils.set_random_seed(0)
    experts = Experts(E, F, same_init=False, **options)
    experts.build((E, None, D))
    for weight in experts.weights:  # Biases that count, too.
        weight.assign(draw(weight.shape) / 2)
    return experts


def by_loop(experts, streams, layout, assignment):
    """Token by token and choice by choice, in NumPy."""
    kernel_in, bias_in, kernel_out, bias_out = (w.numpy() for w in experts.weights)
    joined = layout.join(streams).numpy()[0]
    outputs = np.zeros_like(joined)
    expert, weight, kept = (
        x.numpy()[0] for x in (assignment.expert, assignment.weight, assignment.kept)
    )
    for token, k in np.argwhere(kept):
        e = expert[token, k]
        hidden = joined[token] @ kernel_in[e] + bias_in[e]
        hidden *= 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        outputs[token] += weight[token, k] * (hidden @ kernel_out[e] + bias_out[e])
    return tokens.split(tf.constant(outputs[np.newaxis]), layout)


def assert_close(found, wanted, tolerance=1e-5):
    tf.nest.assert_same_structure(found, wanted)
    for value, other in zip(tf.nest.flatten(found), tf.nest.flatten(wanted)):
        assert value.dtype == other.dtype
        value, other = (tf.cast(x, tf.float32).numpy() for x in (value, other))
        scale = max(0.1, np.abs(other).max())
        np.testing.assert_allclose(value, other, rtol=0, atol=tolerance * scale)


def outputs_and_gradients(experts, streams, layout, assignment, *, num_slots, training):
    """Outputs, and gradients to tokens, to weights of choices and to the experts' weights."""
    variables = [w.value for w in experts.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch([streams, assignment.weight])
        with AutocastScope(experts.compute_dtype):  # as Keras enters when a layer is called
            outputs = apply_to_streams(
                experts, streams, layout, assignment, num_slots=num_slots, training=training
            )
        loss = tf.add_n([tf.reduce_sum(tf.cast(x, tf.float32) ** 2) for x in outputs.values()])
    return outputs, tape.gradient(loss, [streams, assignment.weight, variables])


def test_a_round_takes_the_next_slots_of_every_queue():
    assignment = Assignment(
        expert=tf.constant([[[0], [0], [0], [1], [0]]]),
        slot=tf.constant([[[2], [0], [1], [0], [3]]]),
        weight=tf.ones([1, 5, 1]),
        kept=tf.constant([[[True], [True], [True], [True], [False]]]),
    )
    first, second = (rounds.of_round(assignment, number, 2) for number in (0, 1))
    assert first.kept[0, :, 0].numpy().tolist() == [False, True, True, True, False]
    # The third token of expert 0 has the first slot of the second round; the fifth is padding.
    assert second.kept[0, :, 0].numpy().tolist() == [True, False, False, False, False]
    assert second.slot[0, 0, 0] == 0
    assert rounds.num_rounds(assignment, 2) == 2
    nothing = assignment._replace(kept=tf.zeros([1, 5, 1], tf.bool))
    assert rounds.num_rounds(nothing, 2) == 0


# Some 7 of 24 words are padding. Even: no queue is twice as long as the others. One expert has
# some 57 tokens, two have some 32 and 25.
@pytest.mark.parametrize("routing, num_rounds", [("even", 1), ("one", 5), ("two", 3)])
def test_there_are_as_many_rounds_as_the_longest_queue_needs(routing, num_rounds):
    assignment, _ = draw_assignment(routing, num_choices=1)
    slots = rounds.num_slots(T, num_experts=E, num_choices=1)
    assert slots == 12  # 64 tokens * 1.25 / 8 = 10, up to a multiple of 4
    longest = np.bincount(np.asarray(assignment.expert)[np.asarray(assignment.kept)]).max()
    assert rounds.num_rounds(assignment, slots) == -(-longest // 12) == num_rounds


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("num_choices", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_every_token_is_computed_as_in_a_loop_over_tokens(routing, num_choices, training):
    experts, streams = make_experts(), draw_streams()
    assignment, layout = draw_assignment(routing, num_choices)
    found = apply_to_streams(
        experts, streams, layout, assignment, num_slots=None, training=training
    )
    assert_close(found, by_loop(experts, streams, layout, assignment))


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("num_choices", [1, 2])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_gradients_are_those_of_buffers_with_room_for_all(routing, num_choices, jit_compile):
    experts, streams = make_experts(), draw_streams()
    assignment, layout = draw_assignment(routing, num_choices)
    take = functools.partial(outputs_and_gradients, experts, layout=layout, training=True)
    compiled = tf.function(
        lambda x, a: take(x, assignment=a, num_slots=None), jit_compile=jit_compile, autograph=False
    )
    found, wanted = compiled(streams, assignment), take(streams, assignment=assignment, num_slots=T)
    assert_close(found, wanted)
    assert all(np.abs(gradient).max() > 0 for gradient in tf.nest.flatten(wanted[1]))


def test_through_frozen_experts_gradients_reach_tokens_and_gates():
    experts, streams = make_experts(), draw_streams()
    experts.trainable = False
    assignment, layout = draw_assignment("two", num_choices=2)
    take = functools.partial(outputs_and_gradients, experts, layout=layout, training=False)
    compiled = tf.function(
        lambda x, a: take(x, assignment=a, num_slots=None), jit_compile=True, autograph=False
    )
    found, wanted = compiled(streams, assignment), take(streams, assignment=assignment, num_slots=T)
    assert_close(found, wanted)


def test_half_precision_is_as_exact_as_with_room_for_all():
    experts, streams = make_experts(dtype="mixed_bfloat16"), draw_streams(tf.bfloat16)
    assignment, layout = draw_assignment("one", num_choices=2)
    take = functools.partial(outputs_and_gradients, experts, layout=layout, training=True)
    exact = outputs_and_gradients(
        make_experts(), draw_streams(), layout, assignment, num_slots=T, training=True
    )
    found, other = (take(streams, assignment=assignment, num_slots=n) for n in (None, T))

    def distance(values):
        pairs = zip(tf.nest.flatten(values), tf.nest.flatten(exact), strict=True)
        return max(
            float(np.linalg.norm(tf.cast(a, tf.float32) - b) / np.linalg.norm(b)) for a, b in pairs
        )

    assert [x.dtype for x in tf.nest.flatten(found)] == [x.dtype for x in tf.nest.flatten(other)]
    # Some roundings of 2**-9 each.
    assert 0 < distance(found) < max(8 * 2**-9, 1.5 * distance(other))


def make_layer(**options):
    keras.utils.set_random_seed(0)
    layer = SparseFeedForward(F, num_experts=E, same_expert_init=False, **options)
    layer.build({"image": (None, None, D)})
    return layer


def step(layer, streams):
    layer.router.draws.assign(0)
    with tf.GradientTape() as tape:
        tape.watch(streams)
        outputs, report = layer(streams, dict.fromkeys(streams), training=True)
        losses = [tf.reduce_sum(x**2) for x in outputs.values()]
        loss = tf.add_n([*losses, *report.losses.values()])
    variables = [w.value for w in layer.trainable_weights]
    return outputs, report, tape.gradient(loss, [variables, streams])


@pytest.mark.parametrize("form", ["graph", "XLA", "mesh"])
@pytest.mark.parametrize("num_choices", [1, 2])
def test_dropless_training_is_training_with_a_capacity_that_nothing_exceeds(form, num_choices):
    mesh = "data:2;expert:4" if form == "mesh" else None
    layer = make_layer(capacity_factor=None, num_choices=num_choices, expert_mesh=mesh)
    roomy = make_layer(capacity_factor=E, num_choices=num_choices)
    for each in (layer, roomy):  # Most tokens to one expert.
        each.router.kernels[0].assign_add(tf.one_hot([3] * D, E))
    streams = draw_streams()
    streams["text"] = tf.abs(streams["text"])
    compiled = tf.function(lambda x: step(layer, x), jit_compile=form == "XLA", autograph=False)
    found = compiled(streams)
    assert found[1].metrics["tokens_text"][3] > 1.25 * B * TEXTS / E
    assert_close(found, step(roomy, streams))


def test_groups_change_nothing_where_no_token_is_dropped():
    streams = draw_streams()
    wanted = step(make_layer(capacity_factor=None), streams)
    assert_close(step(make_layer(capacity_factor=None, group_size=3), streams), wanted)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_batch_of_any_size_is_taken_in_one_trace(jit_compile):
    layer, traces = make_layer(num_choices=2), []

    @tf.function(input_signature=[tf.TensorSpec([None, IMAGES, D])], jit_compile=jit_compile)
    def infer(image):
        traces.append(image)
        return layer({"image": image}, {"image": None}, training=False)[0]["image"]

    for size in (1, 3, 4):
        image = draw([size, IMAGES, D])
        wanted = layer({"image": image}, {"image": None}, training=False)[0]["image"]
        assert_close(infer(image), wanted)
    assert len(traces) == 1
