"""Recall at k, against counting by hand and against every order of the ties."""

import itertools
import math

import numpy as np
import pytest

from limoe_tf.evaluate import ranks, retrieval


def unit_rows(rng, rows, width):
    values = rng.normal(size=(rows, width)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def recall_over_all_orders(scores, right, k):
    """Mean over all orders of the candidates of "a right one is in the first k", sorted stably."""
    orders = list(itertools.permutations(range(len(scores))))
    hits = 0
    for order in orders:
        first = sorted(order, key=lambda candidate: -scores[candidate])[:k]
        hits += any(candidate in right for candidate in first)
    return hits / len(orders)


def recalls_by_sorting(images, texts, owners, ks):
    """Plain Python for data without ties."""
    scores = [[float(np.dot(image, text)) for text in texts] for image in images]

    def hit(row, right, k):
        order = sorted(range(len(row)), key=lambda i: -row[i])
        return any(i in right for i in order[:k])

    captions = [{t for t, owner in enumerate(owners) if owner == i} for i in range(len(images))]
    columns = list(zip(*scores))
    return {
        "text_to_image": {
            f"recall_at_{k}": sum(hit(columns[t], {owners[t]}, k) for t in range(len(texts)))
            / len(texts)
            for k in ks
        },
        "image_to_text": {
            f"recall_at_{k}": sum(hit(scores[i], captions[i], k) for i in range(len(images)))
            / len(images)
            for k in ks
        },
    }


def test_a_worked_example_with_two_captions_for_the_first_image():
    # Scores, images down and captions across; the first two captions belong to image 0:
    #           t0   t1   t2
    #   i0     0.6  0.0  0.8     best own caption t0, behind t2      -> second
    #   i1     0.8  1.0  0.6     own caption t2, behind t1 and t0    -> third
    # Down the columns: t0 is won by i1 (wrong), t1 by i1 (wrong), t2 by i0 (wrong): all second.
    images = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    texts = np.array([[0.6, 0.8], [0.0, 1.0], [0.8, 0.6]], np.float32)
    found = retrieval.recalls(images, texts, [0, 0, 1], ks=(1, 2, 3))
    assert found["text_to_image"] == {"recall_at_1": 0.0, "recall_at_2": 1.0, "recall_at_3": 1.0}
    assert found["image_to_text"] == {"recall_at_1": 0.0, "recall_at_2": 0.5, "recall_at_3": 1.0}


def test_equals_sorting_all_scores_for_any_number_of_captions():
    rng = np.random.default_rng(0)
    images = unit_rows(rng, 23, 7)
    owners = np.concatenate([np.arange(23), rng.integers(0, 23, size=41)])
    rng.shuffle(owners)
    noise = rng.normal(scale=0.5, size=(64, 7)).astype(np.float32)
    texts = images[owners] + noise
    expected = recalls_by_sorting(images, texts, owners.tolist(), (1, 5, 10))
    found = retrieval.recalls(images, texts, owners)
    for direction, numbers in expected.items():
        assert 0.0 < numbers["recall_at_1"] < numbers["recall_at_10"]
        assert found[direction] == pytest.approx(numbers)


def test_ties_count_as_the_mean_over_all_their_orders():
    # Few values, so most scores tie: with the right ones, above them and below them.
    rng = np.random.default_rng(1)
    for _ in range(40):
        images = rng.integers(-1, 2, size=(2, 3)).astype(np.float32)
        texts = rng.integers(-1, 2, size=(6, 3)).astype(np.float32)
        owners = rng.permutation([0, 0, 1, *rng.integers(0, 2, size=3)])
        found = retrieval.recalls(images, texts, owners, ks=(1, 2, 4))
        for k in (1, 2, 4):
            to_text = [
                recall_over_all_orders(texts @ image, set(np.flatnonzero(owners == i)), k)
                for i, image in enumerate(images)
            ]
            to_image = [
                recall_over_all_orders(images @ text, {owner}, k)
                for text, owner in zip(texts, owners)
            ]
            assert found["image_to_text"][f"recall_at_{k}"] == pytest.approx(np.mean(to_text))
            assert found["text_to_image"][f"recall_at_{k}"] == pytest.approx(np.mean(to_image))


def test_a_model_that_embeds_everything_alike_scores_chance():
    alike = np.full((40, 5), 0.2, np.float32)
    found = retrieval.recalls(alike[:20], alike, np.arange(40) % 20)
    assert found["text_to_image"]["recall_at_5"] == pytest.approx(5 / 20)
    # Two of 40 captions are right: all of the first 10 are wrong with C(38, 10) / C(40, 10).
    chance = 1 - math.comb(38, 10) / math.comb(40, 10)
    assert found["image_to_text"]["recall_at_10"] == pytest.approx(chance)


def test_equal_embeddings_tie_wherever_rounding_and_blocks_put_them():
    # 300 copies of the right candidate of an odd width: their products may differ in the last bit.
    rng = np.random.default_rng(2)
    query = unit_rows(rng, 1, 769)
    candidates = np.repeat(unit_rows(rng, 1, 769), 301, axis=0)
    found = ranks.rank_right(query, candidates, [0], [137], block_size=64)
    assert (found.better[0], found.tied[0], found.right[0]) == (0, 300, 1)


def test_embeddings_one_float32_step_apart_do_not_tie():
    query = np.array([[1.0, 0.0]], np.float32)
    above = np.nextafter(np.float32(0.5), np.float32(1))
    candidates = np.array([[0.5, 0.0], [above, 0.0]], np.float32)
    found = ranks.rank_right(query, candidates, [0], [0])
    assert (found.better[0], found.tied[0], found.right[0]) == (1, 0, 1)


def test_the_block_size_changes_nothing():
    rng = np.random.default_rng(3)
    queries = rng.integers(-2, 3, size=(29, 4)).astype(np.float32)
    candidates = rng.integers(-2, 3, size=(31, 4)).astype(np.float32)
    query = np.concatenate([np.arange(29), rng.integers(0, 29, size=50)])
    candidate = rng.integers(0, 31, size=79)
    whole = ranks.rank_right(queries, candidates, query, candidate)
    assert whole.tied.max() > 0 and whole.right.max() > 1
    for block_size in (1, 5, 29, 30):
        blocked = ranks.rank_right(queries, candidates, query, candidate, block_size=block_size)
        for expected, found in zip(whole, blocked):
            np.testing.assert_array_equal(found, expected)


def test_one_pair_and_more_places_than_candidates_are_a_hit():
    one = np.ones((1, 3), np.float32)
    found = retrieval.recalls(one, -one, [0], ks=(1, 10))
    assert found["text_to_image"] == {"recall_at_1": 1.0, "recall_at_10": 1.0}
    assert found["image_to_text"] == {"recall_at_1": 1.0, "recall_at_10": 1.0}


@pytest.mark.parametrize(
    "changed, kind, message",
    [
        ({"owners": [0, 0, 2]}, ValueError, "without, the first is image 1"),
        ({"owners": [0, 1, 3]}, ValueError, r"image_of_text\[2\]=3"),
        ({"owners": [0, -1, 2]}, ValueError, r"image_of_text\[1\]=-1"),
        ({"owners": [0, 1]}, ValueError, "one number for each caption"),
        ({"owners": [0.0, 1.0, 2.0]}, TypeError, "must be integers"),
        ({"ks": (1, 0)}, ValueError, "`k` must be at least 1"),
        ({"images": np.ones((3, 4), np.int32)}, TypeError, "must be floating point"),
        ({"images": np.ones(3, np.float32)}, ValueError, r"must have shape \[rows, Z\]"),
        ({"images": np.ones((3, 5), np.float32)}, ValueError, "same number of columns"),
        ({"images": np.full((3, 4), np.nan, np.float32)}, ValueError, "must be finite"),
    ],
)
def test_what_cannot_be_measured_is_an_error(changed, kind, message):
    given = {"images": np.ones((3, 4), np.float32), "owners": [0, 1, 2], "ks": (1,)} | changed
    texts = np.ones((3, 4), np.float32)
    with pytest.raises(kind, match=message):
        retrieval.recalls(given["images"], texts, given["owners"], ks=given["ks"])
