import numpy as np

from limoe_tf.analyze.routes import Routes
from limoe_tf.analyze.tally import ModalityTally, kinds_of_experts
from tests.shared.routed import routes


def small_tally():
    """Two batches of a text of three tokens, of pieces 0 to 3; -1 is padding."""
    tally = ModalityTally(2, 4)
    first = routes([[0, 1, -1]], kept=[[True, False, True]], rank=[[0.25, 0.75, 9]], entropy=0.5)
    tally.add(first, np.array([[2, 3, 0]]))
    tally.add(routes([[0, 0, 1]], rank=[[0.5, 0.5, 0.5]], entropy=1.5), np.array([[2, 3, 1]]))
    return tally


def test_choices_and_drops_are_counted_by_expert_and_kind():
    tally = small_tally()
    assert tally.chosen.tolist() == [[0, 0, 2, 1], [0, 1, 0, 1]]
    assert tally.dropped.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]
    assert tally.tokens == 5
    assert tally.shares().tolist() == [0.6, 0.4]
    assert tally.dropped_share() == 0.2


def test_ranks_are_means_over_tokens_and_entropies_over_batches():
    tally = small_tally()
    assert tally.mean_rank == (0.25 + 0.75 + 3 * 0.5) / 5
    assert tally.entropy == 1.0


def test_typical_is_what_goes_there_more_often_than_tokens_do_on_the_whole():
    # Expert 0 has 3 of 5 tokens: piece 2 has 2 - 0.6 x 2 more than its share, piece 3 1 - 0.6 x 2.
    assert small_tally().typical(0, 5) == [(2, 2, 1.0), (3, 1, 0.5)]
    assert small_tally().typical(0, 1) == [(2, 2, 1.0)]
    assert small_tally().most_dropped(5) == [(3, 1, 0.5)]


def test_what_is_frequent_everywhere_is_not_typical():
    tally = ModalityTally(2, 2)
    # Of 10 tokens of piece 0 each expert gets 5; both of piece 1 go to expert 1.
    tally.add(routes([[0, 1] * 5 + [1, 1]]), np.array([[0] * 10 + [1, 1]]))
    # Expert 1 has 7 of 12: 2 - 2 x 7 / 12 = 0.83 and 5 - 10 x 7 / 12 = -0.83.
    assert tally.typical(1, 2) == [(1, 2, 1.0), (0, 5, 0.5)]


def test_every_choice_of_a_token_counts():
    tally = ModalityTally(3, 1)
    kept = np.array([[[True, False]]])
    both = Routes(np.array([[[2, 0]]]), kept, np.ones([1, 1, 2]), np.zeros([1, 1]), 0.0)
    tally.add(both, np.array([[0]]))
    assert tally.chosen.tolist() == [[1], [0], [1]]
    assert tally.dropped.tolist() == [[1], [0], [0]]
    assert tally.tokens == 1


def test_experts_are_told_apart_by_shares_not_by_numbers():
    image, text = ModalityTally(4, 1), ModalityTally(4, 1)
    # Of 100 image tokens 5, 80, 15 and 0; of 10 text tokens 5, 0, 5 and 0.
    image.add(routes([[0] * 5 + [1] * 80 + [2] * 15]), np.zeros([1, 100], int))
    text.add(routes([[0] * 5 + [2] * 5]), np.zeros([1, 10], int))
    # 0.5 / (0.5 + 0.05) = 0.909; 0.5 / (0.5 + 0.15) = 0.77.
    assert kinds_of_experts({"image": image, "text": text}) == ["text", "image", "mixed", "idle"]
