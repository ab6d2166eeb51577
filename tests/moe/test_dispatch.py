"""Tokens reach the right rows and come back, and gradients are those of one-hot matrices."""

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf import tokens
from limoe_tf.moe import dispatch
from limoe_tf.moe.assign import Assignment, assign

G, S, E, C, D = 2, 7, 3, 3, 5
FORMS = ("padded", "packed")


def draw(shape, seed=0):
    return tf.constant(np.random.default_rng([seed, *shape]).normal(size=shape), tf.float32)


def draw_assignment(num_choices, *, num_slots=C, seed=0, padding=True):
    random = np.random.default_rng(seed)
    probabilities = tf.constant(random.dirichlet(np.ones(E), [G, S]), tf.float32)
    valid = random.random([G, S]) < 0.8 if padding else np.ones([G, S], bool)
    return assign(
        probabilities,
        valid=tf.constant(valid),
        priority=draw([G, S], seed),
        num_choices=num_choices,
        num_slots=num_slots,
    )


def routes_of(form, assignment, num_slots=C):
    if form == "packed":
        return dispatch.packed_routes(assignment, num_experts=E)
    return dispatch.padded_routes(assignment, num_experts=E, num_slots=num_slots)


def rows_by_hand(form, assignment, num_slots=C):
    """Row of each choice that was kept: {(token, choice): row}, and the number of rows."""
    expert, slot, kept = (
        np.asarray(x) for x in (assignment.expert, assignment.slot, assignment.kept)
    )
    kept_choices = [  # in the order of the packed rows
        (expert[g, s, k], g, slot[g, s, k], s, k)
        for g in range(G)
        for s in range(S)
        for k in range(expert.shape[-1])
        if kept[g, s, k]
    ]
    rows = {}
    for number, (e, g, c, s, k) in enumerate(sorted(kept_choices)):
        rows[g * S + s, k] = number if form == "packed" else (e * G + g) * num_slots + c
    return rows, expert.size if form == "packed" else E * G * num_slots


def one_hot_tables(form, assignment):
    """<float32>[K, R, T]: 1 where choice k of a token has the row."""
    rows, num_rows = rows_by_hand(form, assignment)
    tables = np.zeros([assignment.expert.shape[-1], num_rows, G * S], "float32")
    for (token, k), row in rows.items():
        tables[k, row, token] = 1
    return tables


def worked_example():
    """Three tokens, K = 2: token 0 at experts 0 and 1, token 1 at 0 alone, token 2 dropped."""
    return Assignment(
        expert=tf.constant([[[0, 1], [0, 1], [1, 0]]]),
        slot=tf.constant([[[1, 0], [0, 2], [1, 2]]]),
        weight=tf.constant([[[0.75, 0.25], [0.5, 0.5], [0.9, 0.1]]]),
        kept=tf.constant([[[True, True], [True, False], [False, False]]]),
    )


def test_padded_rows_are_expert_by_expert_with_a_place_for_every_slot():
    assignment = worked_example()
    routes = dispatch.padded_routes(assignment, num_experts=2, num_slots=2)
    # Rows: expert 0 slots 0 and 1, expert 1 slots 0 and 1 (empty).
    rows = dispatch.dispatch(tf.constant([[10.0], [20.0], [30.0]]), routes)
    assert routes.used.numpy().tolist() == [True, True, True, False]
    assert rows[:3, 0].numpy().tolist() == [20, 10, 10]
    # Token 0: 0.75 * 2 + 0.25 * 4 = 2.5. Token 1: 0.5 * 1. Token 2 gets nothing.
    outputs = tf.constant([[1.0], [2.0], [4.0], [1e9]])
    combined = dispatch.combine(outputs, assignment.weight[0], routes)
    assert combined[:, 0].numpy().tolist() == [2.5, 0.5, 0]


def test_packed_rows_leave_no_hole_between_experts():
    routes = dispatch.packed_routes(worked_example(), num_experts=2)
    rows = dispatch.dispatch(tf.constant([[10.0], [20.0], [30.0]]), routes)
    assert routes.sizes.numpy().tolist() == [2, 1]
    assert routes.used.numpy().tolist() == [True] * 3 + [False] * 3
    assert rows[:3, 0].numpy().tolist() == [20, 10, 10]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_choices", [1, 2, 3])
def test_every_row_holds_the_token_that_sits_there(form, num_choices):
    for seed in range(3):
        assignment = draw_assignment(num_choices, seed=seed)
        tables, tokens = one_hot_tables(form, assignment), draw([G * S, D], seed)
        routes = routes_of(form, assignment)
        used = tables.sum(axis=(0, 2)) == 1
        np.testing.assert_array_equal(routes.used, used)
        rows = dispatch.dispatch(tokens, routes).numpy()
        assert rows.shape == (len(used), D)
        np.testing.assert_array_equal(rows[used], (tables.sum(axis=0) @ tokens.numpy())[used])
        if form == "packed":
            kept_at = np.asarray(assignment.expert)[np.asarray(assignment.kept)]
            assert routes.sizes.numpy().tolist() == np.bincount(kept_at, minlength=E).tolist()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_choices", [1, E])
def test_with_identity_experts_and_room_for_all_the_input_comes_back(form, num_choices):
    tokens = draw([G * S, D])
    assignment = draw_assignment(num_choices, num_slots=S, padding=False)
    # K = E: a token's weights are all its gates and sum to 1. For K = 1 they are set to 1.
    weight = tf.ones([G * S, 1]) if num_choices == 1 else tf.reshape(assignment.weight, [G * S, E])
    routes = routes_of(form, assignment, num_slots=S)
    rows = dispatch.dispatch(tokens, routes)
    np.testing.assert_allclose(dispatch.combine(rows, weight, routes), tokens, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_choices", [1, 2, 3])
def test_dispatch_has_the_gradient_of_a_one_hot_matrix(form, num_choices):
    assignment, tokens = draw_assignment(num_choices), draw([G * S, D])
    tables, routes = one_hot_tables(form, assignment), routes_of(form, assignment)
    upstream = draw([tables.shape[1], D], seed=1)  # not zero at the empty rows either
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tokens)
        moved = tf.reduce_sum(dispatch.dispatch(tokens, routes) * upstream)
        plain = tf.reduce_sum(tf.einsum("krt,td->rd", tables, tokens) * upstream)
    result, expected = tape.gradient(moved, tokens), tape.gradient(plain, tokens)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert (np.asarray(expected) != 0).any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_choices", [1, 2, 3])
def test_combine_has_the_values_and_gradients_of_one_hot_matrices(form, num_choices):
    assignment = draw_assignment(num_choices)
    tables, routes = one_hot_tables(form, assignment), routes_of(form, assignment)
    outputs = draw([tables.shape[1], D], seed=2)
    weight, upstream = draw([G * S, num_choices], seed=3), draw([G * S, D], seed=4)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([outputs, weight])
        combined = dispatch.combine(outputs, weight, routes)
        plain = tf.einsum("krt,rd,tk->td", tables, outputs, weight)
        losses = [tf.reduce_sum(x * upstream) for x in (combined, plain)]
    np.testing.assert_allclose(combined, plain, rtol=1e-5, atol=1e-6)
    results, expected = [tape.gradient(loss, [outputs, weight]) for loss in losses]
    for result, wanted in zip(results, expected):
        assert result.shape == wanted.shape
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)
    assert (np.asarray(expected[1]) == 0).any()  # choices were dropped


@pytest.mark.parametrize("form", FORMS)
def test_empty_rows_neither_reach_a_token_nor_take_a_gradient(form):
    assignment = draw_assignment(num_choices=1)
    routes, weight = routes_of(form, assignment), tf.reshape(assignment.weight, [-1, 1])
    empty = np.flatnonzero(~routes.used.numpy())
    # Row 0 is in use here; what dropped choices read, they read from there, with weight zero.
    assert empty.size > 0 and routes.used[0]
    outputs = np.ones([len(routes.used), D], "float32")
    outputs[empty] = np.nan
    outputs = tf.constant(outputs)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        combined = dispatch.combine(outputs, weight, routes)
    assert np.isfinite(combined).all()
    assert not np.asarray(tape.gradient(combined, outputs))[empty].any()


@pytest.mark.parametrize("form", FORMS)
def test_a_group_of_padding_alone_takes_no_row(form):
    assignment = draw_assignment(num_choices=2)._replace(kept=tf.zeros([G, S, 2], tf.bool))
    routes = routes_of(form, assignment)
    assert not routes.used.numpy().any()
    outputs = draw([len(routes.used), D])
    combined = dispatch.combine(outputs, tf.reshape(assignment.weight, [-1, 2]), routes)
    assert not combined.numpy().any()


@pytest.mark.parametrize("form", FORMS)
def test_rows_and_weights_keep_the_precision_of_the_values(form):
    assignment = draw_assignment(num_choices=2)
    routes, tokens = routes_of(form, assignment), tf.cast(draw([G * S, D]), tf.bfloat16)
    weight = tf.reshape(assignment.weight, [-1, 2])
    with tf.GradientTape() as tape:
        tape.watch([tokens, weight])
        combined = dispatch.combine(dispatch.dispatch(tokens, routes), weight, routes)
    assert combined.dtype == tf.bfloat16
    gradients = tape.gradient(combined, [tokens, weight])
    assert [gradient.dtype for gradient in gradients] == [tf.bfloat16, tf.float32]


@pytest.mark.parametrize("num_choices", [1, 2])
def test_streams_by_position_move_as_the_joined_tokens_do(num_choices):
    # Two groups of two examples: 4 tokens of one stream and 2 of the other in each.
    streams = {"image": draw([4, 2, D]), "text": draw([4, 1, D])}
    joined, _, layout = tokens.join(streams, dict.fromkeys(streams), group_size=2)
    probabilities = tf.nn.softmax(draw([2, 6, E]))
    assignment = assign(
        probabilities,
        valid=tf.ones([2, 6], tf.bool),
        priority=draw([2, 6]),
        num_choices=num_choices,
        num_slots=2,
    )
    options = {"num_experts": E, "num_slots": 2}
    upstream = {name: draw(stream.shape, seed=5) for name, stream in streams.items()}

    def in_streams(streams, weight):
        routes = dispatch.padded_routes(assignment, layout=layout, **options)
        tables = [tokens.by_position(stream) for stream in streams.values()]
        rows = dispatch.dispatch_streams(tables, routes)
        moved = dispatch.combine_streams(
            rows**3, dispatch.in_table(weight, layout), routes, lengths=[8, 4]
        )
        shapes = layout.shapes.values()
        return dict(zip(streams, map(tokens.from_positions, moved, shapes)))

    def in_groups(streams, weight):
        flat = tf.reshape(tokens.join(streams, dict.fromkeys(streams), group_size=2)[0], [-1, D])
        routes = dispatch.padded_routes(assignment, **options)
        rows = dispatch.dispatch(flat, routes)
        moved = dispatch.combine(rows**3, tf.reshape(weight, [-1, num_choices]), routes)
        return tokens.split(tf.reshape(moved, joined.shape), layout)

    found = []
    for function in (in_streams, in_groups):
        with tf.GradientTape() as tape:
            tape.watch([streams, assignment.weight])
            outputs = function(streams, assignment.weight)
            loss = tf.add_n([tf.reduce_sum(outputs[name] * upstream[name]) for name in streams])
        found.append(tf.nest.flatten([outputs, tape.gradient(loss, [streams, assignment.weight])]))
    for result, expected in zip(*found):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert not np.asarray(assignment.kept).all()
