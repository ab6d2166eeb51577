"""Masks of patches and of words, drawn from given numbers."""

import math

import numpy as np
import pytest
import tensorflow as tf

from limoe_tf.data import masking

LENGTH, SIZE = 12, 20
WORDS = list(range(3, SIZE))  # 0, 1 and 2 are padding, end and unknown.


def draws_of(count, width, seed=0):
    return np.random.default_rng(seed).random([count, width], np.float32)


def patches_masked(count, side, share=0.4, seed=0):
    """Returns places <int>[count, M], and <bool>[count, side, side]."""
    draws = draws_of(count, masking.num_patch_draws(side**2), seed)
    places = masking.masked_patches(draws, num_patches=side**2, share=share).numpy()
    masked = np.zeros([count, side**2], bool)
    np.put_along_axis(masked, places, True, axis=1)
    return places, masked.reshape(-1, side, side)


@pytest.fixture(scope="module")
def of_196():
    return patches_masked(2000, 14)


# 0.4 * 196 = 78.4, 0.4 * 64 = 25.6, 0.4 * 16 = 6.4; one patch of one; 0.01 * 16 = 0.16 is one at
# least, and 0.9 * 49 = 44.1 lets single patches fill up what blocks leave.
@pytest.mark.parametrize(
    "side, share, number",
    [
        (14, 0.4, 78),
        (8, 0.4, 26),
        (4, 0.4, 6),
        (2, 0.4, 2),
        (1, 0.4, 1),
        (4, 0.01, 1),
        (7, 0.9, 44),
    ],
)
def test_exactly_as_many_patches_are_masked_as_asked_for(side, share, number):
    places, masked = patches_masked(300, side, share)
    assert places.dtype == np.int32 and places.shape == (300, number)
    # In ascending order, so that none comes twice.
    assert (np.diff(places, axis=1) > 0).all()
    assert places.min() >= 0 and places.max() < side**2
    assert (masked.sum(axis=(1, 2)) == number).all()


def test_all_patches_can_be_masked():
    places, _ = patches_masked(5, 4, share=1)
    np.testing.assert_array_equal(places, [list(range(16))] * 5)


def share_alone(masked):
    """Returns the share of masked patches none of whose four neighbours is masked."""
    padded = np.pad(masked, ((0, 0), (1, 1), (1, 1)))
    beside = padded[:, 2:, 1:-1] | padded[:, :-2, 1:-1] | padded[:, 1:-1, 2:] | padded[:, 1:-1, :-2]
    return (masked & ~beside).sum() / masked.sum()


def test_masked_patches_are_blocks(of_196):
    _, masked = of_196
    assert share_alone(masked) < 0.02
    # Of patches drawn one by one, a patch within has 4 neighbours that are all open with a chance
    # of 0.6**4, those at edges 3 and those in corners 2: (144 * 0.6**4 + 48 * 0.6**3 + 4 * 0.6**2)
    # / 196 = 0.155. The measure tells the two apart.
    singly = np.argsort(draws_of(2000, 196), axis=1) < 78
    assert share_alone(singly.reshape(-1, 14, 14)) == pytest.approx(0.155, abs=0.01)


def test_the_middle_is_masked_far_more_often_than_the_corners(of_196):
    # Blocks that lie within the image seldom reach its corners. Of 2,000 masks, a share of 0.74 has
    # a deviation of 0.01 and one of 0.05 has 0.005.
    often = of_196[1].mean(axis=0)
    assert often[6:8, 6:8].mean() == pytest.approx(0.74, abs=0.03)
    assert often[[0, 0, 13, 13], [0, 13, 0, 13]].mean() == pytest.approx(0.05, abs=0.02)
    # The image turned by a quarter or mirrored is masked as often.
    for other in (np.rot90(often), often[::-1], often[:, ::-1]):
        np.testing.assert_allclose(often, other, atol=0.08)


def blocks_in_python(draws, side, quota):
    """Does what `masked_patches` says of one image, in a loop over its tries."""
    masked, failed, places = np.zeros([side, side], bool), 0, 4 * 40
    least = max(2, round(side**2 * 16 / 196))
    for area, aspect, row, column in draws[:places].astype(float).reshape(40, 4):
        left = quota - masked.sum()
        area = max(least + area * (left - least), 1)
        aspect = 0.3 * (1 / 0.3**2) ** aspect
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        block = np.zeros_like(masked)
        if 1 <= height < side and 1 <= width < side:
            top = int(row * (side - height + 1))
            start = int(column * (side - width + 1))
            block[top : top + height, start : start + width] = True
        taken = failed < 10 and 0 < (block & ~masked).sum() <= left
        masked |= block & taken
        failed = 0 if taken else failed + 1
    order = np.where(masked.ravel(), 2, draws[places:])
    return np.sort(np.argsort(-order, kind="stable")[:quota])


@pytest.mark.parametrize("side, quota", [(14, 78), (8, 26), (4, 6)])
def test_masks_are_those_of_a_plain_loop(side, quota):
    places, _ = patches_masked(200, side, seed=3)
    draws = draws_of(200, masking.num_patch_draws(side**2), seed=3)
    expected = np.array([blocks_in_python(one, side, quota) for one in draws])
    # A side of a block may be rounded the other way in float32.
    assert (places == expected).all(axis=1).sum() >= 198


def test_the_same_draws_give_the_same_mask_in_a_graph_and_in_any_batch():
    draws = draws_of(20, masking.num_patch_draws(64), seed=1)
    options = {"num_patches": 64, "share": 0.4}
    expected = masking.masked_patches(draws, **options).numpy()
    assert len({tuple(one) for one in expected}) == 20

    @tf.function(input_signature=[tf.TensorSpec([None, draws.shape[1]])])
    def in_graph(draws):
        return masking.masked_patches(draws, **options)

    assert in_graph.get_concrete_function().structured_outputs.shape.as_list() == [None, 26]
    np.testing.assert_array_equal(in_graph(draws), expected)
    for row in range(0, 20, 5):
        np.testing.assert_array_equal(in_graph(draws[row : row + 1]), expected[row : row + 1])


def test_patches_of_no_square_and_shares_out_of_range_are_refused():
    with pytest.raises(ValueError, match="must be a square. Received: num_patches=12"):
        masking.masked_patches(draws_of(1, 172), num_patches=12, share=0.4)
    with pytest.raises(ValueError, match="`share` must be between 0 and 1. Received: share=1.5"):
        masking.masked_patches(draws_of(1, 176), num_patches=16, share=1.5)


def some_texts(count, seed=0):
    """Texts of 0 to 11 words and their end, padded with the end; a few words are unknown.

    Returns <int32>[count, N] ids and <bool>[count, N] valid.
    """
    rng = np.random.default_rng([11, seed])
    lengths = np.arange(count)[:, np.newaxis] % LENGTH
    places = np.arange(LENGTH)
    ids = rng.choice([2, *WORDS], [count, LENGTH])
    text = np.where(places < lengths, ids, 1).astype(np.int32)
    return text, places <= lengths


def words_masked(text, valid, share=0.5, seed=0, words=WORDS):
    draws = draws_of(len(text), masking.num_word_draws(LENGTH), seed)
    found = masking.masked_words(draws, text, valid, words=words, vocabulary_size=SIZE, share=share)
    return [one.numpy() for one in found]


@pytest.fixture(scope="module")
def texts():
    return some_texts(6000)


# Of a text of 11 words: 0.15 * 11 = 1.65, 0.5 * 11 = 5.5 (the even neighbour is 6), 0.01 * 11 =
# 0.11 is one at least.
@pytest.mark.parametrize("share, most", [(0.15, 2), (0.5, 6), (0.01, 1), (1.0, 11)])
def test_exactly_as_many_words_are_masked_as_asked_for(texts, share, most):
    text, valid = texts
    shown, places, present = words_masked(text, valid, share)
    assert (shown.dtype, places.dtype, present.dtype) == (np.int32, np.int32, bool)
    assert shown.shape == text.shape and places.shape == present.shape == (len(text), most)
    count = (np.isin(text, WORDS) & valid).sum(axis=1)
    number = present.sum(axis=1)
    assert set(count) == set(range(12))
    nearest = np.abs(number - share * count) <= 0.5 + 1e-6
    assert (nearest | ((number == 1) & (share * count < 0.5)))[count > 0].all()
    assert (number[count > 0] >= 1).all() and (number[count == 0] == 0).all()
    # Those that are not present come last.
    assert (np.diff(present.astype(int), axis=1) <= 0).all()


def test_words_alone_are_masked_and_no_place_comes_twice(texts):
    text, valid = texts
    shown, places, present = words_masked(text, valid)
    masked = np.zeros(text.shape, int)
    rows = np.broadcast_to(np.arange(len(text))[:, np.newaxis], places.shape)
    np.add.at(masked, (rows[present], places[present]), 1)
    assert masked.max() == 1
    maskable = np.isin(text, WORDS) & valid
    assert not masked[~maskable].any()
    # What is not masked is shown as it is.
    np.testing.assert_array_equal(shown[masked == 0], text[masked == 0])
    # Each word of a text is masked as often as any other: of some 500 texts of 11 words six of 11,
    # with a deviation of 0.022.
    full = maskable.sum(axis=1) == 11
    np.testing.assert_allclose(masked[full].mean(axis=0)[:11], 6 / 11, atol=0.09)


def test_of_masked_words_eight_tenths_show_the_mask_and_a_tenth_a_random_word(texts):
    text, valid = texts
    shown, places, present = words_masked(text, valid)
    seen = np.take_along_axis(shown, places, 1)[present]
    was = np.take_along_axis(text, places, 1)[present]
    assert len(seen) > 15_000  # So a share has a deviation of 0.0033 at most.
    assert np.mean(seen == SIZE) == pytest.approx(0.8, abs=0.014)
    # A random word is by chance, of one in 17, the one that was there.
    assert np.mean(seen == was) == pytest.approx(0.1 + 0.1 / 17, abs=0.011)
    random = seen[(seen != SIZE) & (seen != was)]
    assert len(random) / len(seen) == pytest.approx(0.1 * 16 / 17, abs=0.011)
    # Each of 17 words about as often: of some 1,600, with a deviation of 10.
    counts = np.bincount(random, minlength=SIZE)
    assert not counts[:3].any()
    np.testing.assert_allclose(counts[3:], len(random) / 17, atol=42)


def test_random_words_and_masked_ones_are_of_those_given(texts):
    few = [4, 7, 8]
    text, valid = texts
    shown, places, present = words_masked(text, valid, words=few)
    was = np.take_along_axis(text, places, 1)[present]
    assert set(was) == set(few)
    assert set(np.take_along_axis(shown, places, 1)[present]) == {SIZE, *few}


def test_a_text_without_words_masks_nothing():
    text = np.array([[1] * LENGTH, [2, 2, 0, 1] * 3], np.int32)
    valid = np.array([[True] + [False] * (LENGTH - 1), [True] * LENGTH])
    shown, _, present = words_masked(text, valid)
    assert not present.any()
    np.testing.assert_array_equal(shown, text)


def test_words_behind_the_end_of_a_text_are_not_masked():
    text = np.full([200, LENGTH], 5, np.int32)
    valid = np.broadcast_to(np.arange(LENGTH) < 3, text.shape)
    shown, places, present = words_masked(text, valid)
    assert (present.sum(axis=1) == 2).all()  # 0.5 * 3, to the even neighbour.
    assert set(places[present]) == {0, 1, 2} and (shown[:, 3:] == 5).all()


def test_the_same_draws_mask_the_same_words_in_a_graph_and_in_any_batch():
    text, valid = some_texts(24, seed=1)
    draws = draws_of(24, masking.num_word_draws(LENGTH), seed=2)
    expected = words_masked(text, valid, seed=2)
    shapes = [draws.shape[1], LENGTH, LENGTH]
    types = [tf.float32, tf.int32, tf.bool]

    @tf.function(input_signature=[tf.TensorSpec([None, n], t) for n, t in zip(shapes, types)])
    def in_graph(*given):
        return masking.masked_words(*given, words=WORDS, vocabulary_size=SIZE, share=0.5)

    outputs = in_graph.get_concrete_function().structured_outputs
    assert [one.shape.as_list() for one in outputs] == [[None, LENGTH], [None, 6], [None, 6]]
    for rows in (slice(None), slice(7, 8), slice(12, 24)):
        found = in_graph(draws[rows], text[rows], valid[rows])
        for one, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, wanted[rows])
