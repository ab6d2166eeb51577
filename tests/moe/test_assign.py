"""Which token gets which slot: examples by hand, a loop over tokens, and invariants."""

import math

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.moe.assign import ORDERS, Assignment, assign, capacity, normalized, priority
from limoe_tf.tokens import Layout

G, S, E = 2, 13, 5
IMAGES = 8  # tokens of a group that are images; the other five are text
LAYOUT = Layout(
    shapes={"image": (G, IMAGES), "text": (G, S - IMAGES)},
    lengths={"image": IMAGES, "text": S - IMAGES},
)


def draw_probabilities(seed=0, shape=(G, S, E)):
    return np.random.default_rng(seed).dirichlet(np.full(shape[-1], 0.5), shape[:-1]).astype("f")


def draw_valid(seed=0):
    return np.random.default_rng([seed, 1]).random((G, S)) < 0.8


def assigned(probabilities, order="batch_priority", *, valid=None, num_choices=1, num_slots=3):
    """The Assignment in NumPy, and the priorities it went by."""
    probabilities = tf.constant(probabilities, tf.float32)
    valid = tf.ones(probabilities.shape[:2], tf.bool) if valid is None else tf.constant(valid)
    if isinstance(order, str):
        order = priority(
            order, probabilities, LAYOUT, num_choices=num_choices, seed=tf.constant([3, 4])
        )
    assignment = assign(
        probabilities, valid=valid, priority=order, num_choices=num_choices, num_slots=num_slots
    )
    return tf.nest.map_structure(lambda x: x.numpy(), assignment), np.asarray(order)


def assign_by_loop(probabilities, valid, priorities, num_choices, num_slots):
    """Expert, slot and kept, by walking through the tokens one by one; -1 where none is kept."""
    shape = [*valid.shape, num_choices]
    expert, slot, kept = np.zeros(shape, int), np.full(shape, -1), np.zeros(shape, bool)
    for g in range(shape[0]):
        by_priority = sorted(range(shape[1]), key=lambda s: -priorities[g, s])
        taken = [0] * probabilities.shape[-1]
        for k in range(num_choices):
            for s in by_priority:
                e = expert[g, s, k] = np.argsort(-probabilities[g, s])[k]
                if valid[g, s] and (num_slots is None or taken[e] < num_slots):
                    slot[g, s, k], kept[g, s, k] = taken[e], True
                    taken[e] += 1
    return expert, slot, kept


def test_the_most_confident_tokens_get_slots_first():
    # Two experts of two slots. Tokens 0, 1, 3 want expert 0 with 0.6, 0.9, 0.7; token 2 expert 1.
    # By priority 1 (0.9), 2 (0.8), 3 (0.7), 0 (0.6): 1 and 3 take the slots, 0 is dropped.
    gates = [[[0.6, 0.4], [0.9, 0.1], [0.2, 0.8], [0.7, 0.3]]]
    assignment, _ = assigned(gates, num_slots=2)
    assert assignment.expert[..., 0].tolist() == [[0, 0, 1, 0]]
    assert assignment.kept[..., 0].tolist() == [[False, True, True, True]]
    assert assignment.slot[0, 1:, 0].tolist() == [0, 0, 1]
    np.testing.assert_allclose(assignment.weight[..., 0], [[0.6, 0.9, 0.8, 0.7]], rtol=1e-6)


def test_second_choices_wait_for_all_first_choices():
    # Three experts of one slot, K = 2. Token 0 (0.9 + 0.1) has the higher priority, then token 1
    # (0.5 + 0.4). Token 0's second choice is expert 1, which is token 1's first: token 1 has it.
    # Token 1's second choice is expert 2, which is free.
    gates = [[[0.9, 0.1, 0.0], [0.1, 0.5, 0.4]]]
    assignment, _ = assigned(gates, num_choices=2, num_slots=1)
    assert assignment.expert.tolist() == [[[0, 1], [1, 2]]]
    assert assignment.kept.tolist() == [[[True, False], [True, True]]]


def test_the_largest_gate_alone_or_the_sum_of_both_decides_between_two_choices():
    # Both tokens want expert 0 first, which has one slot. Sums are 0.6 + 0.3 and 0.5 + 0.45: the
    # second token is ahead. Largest gates are 0.6 and 0.5: the first one is.
    gates = [[[0.6, 0.1, 0.3], [0.5, 0.45, 0.05]]]
    first_kept = {}
    for order in ("batch_priority", "largest_gate"):
        assignment, _ = assigned(gates, order, num_choices=2, num_slots=1)
        first_kept[order] = assignment.kept[0, :, 0].tolist()
    assert first_kept == {"batch_priority": [False, True], "largest_gate": [True, False]}


@pytest.mark.parametrize("num_choices", [1, 2, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_the_assignment_is_that_of_a_loop_over_tokens(order, num_choices):
    dropped = 0
    for seed in range(4):
        for num_slots in (1, 3, None):
            probabilities, valid = draw_probabilities(seed), draw_valid(seed)
            assignment, priorities = assigned(
                probabilities, order, valid=valid, num_choices=num_choices, num_slots=num_slots
            )
            expert, slot, kept = assign_by_loop(
                probabilities, valid, priorities, num_choices, num_slots
            )
            np.testing.assert_array_equal(assignment.expert, expert)
            np.testing.assert_array_equal(assignment.kept, kept)
            np.testing.assert_array_equal(assignment.slot[kept], slot[kept])
            weight = np.take_along_axis(probabilities, expert, axis=-1)
            np.testing.assert_array_equal(assignment.weight, weight)
            dropped += (valid[..., None] & ~kept).sum()
    assert dropped > 0


def test_no_slot_has_two_tokens_and_slots_are_filled_without_a_gap():
    for seed in range(8):
        valid = draw_valid(seed)
        assignment, _ = assigned(draw_probabilities(seed), valid=valid, num_choices=3, num_slots=4)
        assert not assignment.kept[~valid].any()  # padding gets no slot
        for g in range(G):
            for e in range(E):
                here = assignment.kept[g] & (assignment.expert[g] == e)
                assert sorted(assignment.slot[g][here]) == list(range(here.sum()))
                assert here.sum() <= 4
                assert here.sum(axis=1).max() <= 1  # K different experts: K slots a token
                wanted = (assignment.expert[g] == e) & valid[g][:, None]
                assert here.sum() == min(4, wanted.sum())  # dropped only if the expert is full


def test_renaming_experts_only_renames_the_answer():
    rename = np.array([3, 0, 4, 1, 2])  # old name -> new name
    probabilities = draw_probabilities()
    renamed = np.empty_like(probabilities)
    renamed[..., rename] = probabilities
    before, _ = assigned(probabilities, num_choices=2)
    after, _ = assigned(renamed, num_choices=2)
    np.testing.assert_array_equal(after.expert, rename[before.expert])
    for name in ("slot", "weight", "kept"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize(
    "order, who_drops_changes",
    [("batch_priority", False), ("first_in_images_first", True), ("first_in_text_first", True)],
)
def test_permuting_tokens_only_permutes_the_answer_under_batch_priority(order, who_drops_changes):
    changed = False
    for seed in range(4):
        probabilities = draw_probabilities(seed)
        permutation = np.random.default_rng(seed).permutation(S)
        before, _ = assigned(probabilities, order, num_choices=2)
        after, _ = assigned(probabilities[:, permutation], order, num_choices=2)
        assert not before.kept.all()
        changed |= (after.kept != before.kept[:, permutation]).any()
        if order == "batch_priority":
            np.testing.assert_array_equal(after.slot, before.slot[:, permutation])
    assert changed == who_drops_changes


def test_equal_priorities_go_by_position():
    assignment, _ = assigned(np.full([1, 4, 2], 0.5), num_slots=2)
    assert assignment.kept[0, :, 0].tolist() == [True, True, False, False]


@pytest.mark.parametrize("num_choices", [1, 3, E])
def test_batch_priority_is_the_sum_of_the_highest_gates(num_choices):
    probabilities = draw_probabilities()
    score = priority("batch_priority", tf.constant(probabilities), LAYOUT, num_choices=num_choices)
    expected = np.sort(probabilities, axis=-1)[..., -num_choices:].sum(axis=-1)
    np.testing.assert_allclose(score, expected, rtol=1e-6)
    if num_choices == 1:  # the rule of the paper, to the bit
        np.testing.assert_array_equal(score, probabilities.max(axis=-1))


@pytest.mark.parametrize(
    "order, line",
    [
        ("first_in_images_first", [*range(S)]),
        ("first_in_text_first", [*range(IMAGES, S), *range(IMAGES)]),
    ],
)
def test_first_in_orders_go_by_position_with_one_modality_ahead(order, line):
    score = priority(order, tf.constant(draw_probabilities()), LAYOUT, num_choices=1)
    for row in np.asarray(score):
        assert np.argsort(-row).tolist() == line


def test_random_order_depends_on_the_seed_alone():
    def lines(seed, gates):
        gates, seed = tf.constant(gates), tf.constant(seed)
        score = priority("random", gates, LAYOUT, num_choices=1, seed=seed)
        return np.argsort(-np.asarray(score)).tolist()

    first = lines([3, 4], draw_probabilities())
    assert first == lines([3, 4], draw_probabilities(seed=1))
    assert first != lines([3, 5], draw_probabilities())
    assert first[0] != first[1]  # each group has its own line


@pytest.mark.parametrize(
    "num_tokens, multiple_of, slots",
    [
        (1696, 4, 56),  # 8 * (196 + 16) tokens of B/16: 1696 * 1.05 / 32 = 55.65
        (2176, 4, 72),  # H/14: 71.4
        (520, 4, 20),  # B/32: 17.06 -> 18 -> 20
        (520, 1, 18),
        (3, 4, 3),  # never more than there are tokens
        (1, 1, 1),
    ],
)
def test_capacity_of_the_published_models(num_tokens, multiple_of, slots):
    options = dict(num_experts=32, num_choices=1, capacity_factor=1.05, multiple_of=multiple_of)
    assert capacity(num_tokens, **options) == slots
    assert capacity(tf.constant(num_tokens), **options).numpy() == slots


def test_capacity_is_an_even_share_rounded_up_whether_the_group_is_known_or_not():
    # 2000 * 1.05 / 30 is 70 and not 71, though floating point makes it 70.00000000000001.
    assert capacity(2000, num_experts=30, num_choices=1, capacity_factor=1.05, multiple_of=1) == 70
    for tokens in range(1, 200, 7):
        for experts, choices, factor, multiple in [(4, 1, 1.05, 4), (5, 2, 1.25, 1), (3, 3, 2, 8)]:
            options = dict(num_experts=experts, num_choices=choices, capacity_factor=factor)
            slots = capacity(tokens, **options, multiple_of=multiple)
            share = tokens * choices * factor / experts
            rounded = math.ceil(math.ceil(share) / multiple) * multiple
            assert slots == min(tokens, rounded)
            unknown = capacity(tf.constant(tokens), **options, multiple_of=multiple)
            assert unknown.numpy() == slots


@pytest.mark.parametrize("num_choices", [0, E + 1])
def test_more_choices_than_experts_are_refused(num_choices):
    with pytest.raises(ValueError, match=f"`num_choices` must be between 1 and {E}. Received"):
        assign(
            tf.constant(draw_probabilities()),
            valid=tf.ones([G, S], tf.bool),
            priority=tf.zeros([G, S]),
            num_choices=num_choices,
            num_slots=1,
        )


def test_normalized_weights_of_the_kept_choices_sum_to_one():
    # Gates of 0.6 and 0.2 are 3/4 and 1/4; where one choice is dropped, the other has all; where
    # both are, there is nothing to weigh.
    weight = tf.constant([[[0.6, 0.2], [0.6, 0.2], [0.6, 0.2]]])
    kept = tf.constant([[[True, True], [False, True], [False, False]]])
    found = normalized(Assignment(None, None, weight, kept))
    np.testing.assert_allclose(found.weight, [[[0.75, 0.25], [0, 1], [0, 0]]], rtol=1e-6)
