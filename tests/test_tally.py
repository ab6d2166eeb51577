"""Counts of routing decisions, against decisions made by hand."""

import numpy as np
import pytest

from limoe_tf.analyze.routes import Routes
from limoe_tf.analyze.tally import ModalityTally, kinds_of_experts


def routes(expert, kept, rank=None, entropy=1.0):
    expert, kept = np.array(expert, np.int32), np.array(kept)
    rank = np.zeros(expert.shape[:2], np.float32) if rank is None else np.array(rank, np.float32)
    gate = np.full(expert.shape, 0.5, np.float32)
    return Routes(expert, kept, gate, rank, np.float32(entropy))


def test_choices_are_counted_by_expert_and_kind_of_token():
    tally = ModalityTally(3, 2)
    # Two examples of two tokens with two choices each; the last token is padding.
    tally.add(
        routes(
            [[[0, 1], [1, 2]], [[0, 2], [-1, -1]]],
            [[[True, False], [True, True]], [[True, False], [False, False]]],
            rank=[[0.0, 0.5], [1.0, 9.0]],
            entropy=0.25,
        ),
        np.array([[0, 1], [1, 1]]),
    )
    np.testing.assert_array_equal(tally.chosen, [[1, 1], [1, 1], [0, 2]])
    np.testing.assert_array_equal(tally.dropped, [[0, 0], [1, 0], [0, 1]])
    assert (tally.tokens, tally.mean_rank, tally.entropy) == (3, 0.5, 0.25)
    np.testing.assert_allclose(tally.shares(), [2 / 6, 2 / 6, 2 / 6])
    assert tally.dropped_share() == pytest.approx(2 / 6)


def test_batches_add_up_and_entropies_are_averaged():
    tally = ModalityTally(2, 1)
    for entropy in (0.2, 0.6):
        tally.add(routes([[[1]]], [[[True]]], rank=[[1.0]], entropy=entropy), np.array([[0]]))
    np.testing.assert_array_equal(tally.chosen, [[0], [2]])
    assert (tally.tokens, tally.mean_rank) == (2, 1.0)
    assert tally.entropy == pytest.approx(0.4)


def test_typical_is_what_goes_there_often_and_seldom_elsewhere():
    tally = ModalityTally(2, 3)
    tally.chosen[:] = [[10, 4, 0], [90, 0, 5]]
    # 10 * 0.1 = 1 for kind 0, 4 * 1 = 4 for kind 1; kind 2 never goes there.
    assert tally.typical(0, 5) == [(1, 4, 1.0), (0, 10, 0.1)]
    assert tally.typical(0, 1) == [(1, 4, 1.0)]


def test_the_most_dropped_kinds_come_first():
    tally = ModalityTally(2, 3)
    tally.chosen[:] = [[10, 4, 1], [10, 0, 1]]
    tally.dropped[:] = [[1, 3, 0], [1, 0, 0]]
    assert tally.most_dropped(5) == [(1, 3, 0.75), (0, 2, 0.1)]


def test_experts_are_named_by_shares_not_by_numbers_of_tokens():
    tallies = {"image": ModalityTally(4, 1), "text": ModalityTally(4, 1)}
    # Of 1000 image tokens 20 are 2 %, of 100 text tokens 30 are 30 %: an expert of texts.
    tallies["image"].chosen[:] = [[20], [500], [480], [0]]
    tallies["text"].chosen[:] = [[30], [0], [70], [0]]
    assert kinds_of_experts(tallies) == ["text", "image", "mixed", "idle"]
