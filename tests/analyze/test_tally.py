import numpy as np

from limoe_tf.analyze.patches import TopPatches, grid
from limoe_tf.analyze.routes import Routes
from limoe_tf.analyze.tally import ModalityTally, kinds_of_experts


def routes(expert, *, kept=True, gate=0.5, rank=0.0, entropy=1.0):
    """Routes of <..>[B, N] experts, one choice a token."""
    expert = np.array(expert)[..., np.newaxis]
    kept = np.broadcast_to(np.array(kept), expert.shape[:2])[..., np.newaxis] & (expert >= 0)
    gate = np.broadcast_to(np.array(gate), expert.shape[:2])[..., np.newaxis]
    rank = np.broadcast_to(np.array(rank), expert.shape[:2])
    return Routes(expert, kept, gate, rank, np.float32(entropy))


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


def test_the_patch_with_the_highest_gate_of_each_image_is_kept():
    # 4 x 4 pixels, patches of 2 x 2: patch p of image i has the value 10 i + p.
    images = np.arange(3)[:, None, None] * 10 + np.array([[0, 1], [2, 3]])
    images = np.repeat(np.repeat(images, 2, axis=1), 2, axis=2)
    images = np.repeat(images[..., np.newaxis], 3, axis=3).astype(np.uint8)
    kept = TopPatches(2, patch_size=2, count=2)
    kept.add(routes([[0, 0, 1, 1]] * 2, gate=[[0.3, 0.4, 0.9, 0.8], [0.6, 0.5, 0.7, 0.7]]), images)
    kept.add(routes([[1, 1, 1, 0]], gate=[[0.5, 0.5, 0.5, 0.5]]), images[2:])
    middles = [[int(one[1, 1, 0]) for one in kept.of(expert)] for expert in range(2)]
    # Gates 0.6 of image 1 and 0.5 of image 2; 0.9 of image 0 and 0.7, the first, of image 1.
    assert middles == [[10, 23], [2, 12]]


def test_a_patch_stands_amid_paler_surroundings():
    image = np.zeros([1, 4, 4, 3], np.uint8)
    kept = TopPatches(1, patch_size=2)
    kept.add(routes([[0, 0, 0, 0]], gate=[[0.2, 0.2, 0.2, 0.4]]), image)
    (picture,) = kept.of(0)
    # Around the last patch: inside black, to the left black made paler, to the right grey made so.
    assert picture[1:3, 1:3].max() == 0
    assert picture[1, 0].tolist() == [170] * 3 and picture[1, 3].tolist() == [212] * 3


def test_a_grid_has_pictures_in_rows_and_grey_between():
    black, white = np.zeros([2, 2, 3], np.uint8), np.full([2, 2, 3], 255, np.uint8)
    sheet = grid([black, white, black], columns=2)
    assert sheet.shape == (4 + 2 * 6, 4 + 2 * 6, 3)
    assert sheet[4:6, 4:6].max() == 0 and sheet[4:6, 10:12].min() == 255
    assert sheet[10:12, 4:6].max() == 0 and (sheet[10:12, 10:12] == 128).all()
    assert (sheet[:4] == 128).all() and (sheet[:, 6:10] == 128).all()
