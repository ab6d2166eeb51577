"""Recall at k and median rank, against counting by hand and against every order of the ties."""

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


def mean_rank_over_all_orders(scores, right):
    """Mean over all orders of the candidates of the place of the first right one."""
    places = []
    for order in itertools.permutations(range(len(scores))):
        placed = sorted(order, key=lambda candidate: -scores[candidate])
        places.append(1 + min(placed.index(candidate) for candidate in right))
    return np.mean(places)


def recalls_by_sorting(images, texts, owners, ks):
    """Plain Python for data without ties."""
    scores = [[float(np.dot(image, text)) for text in texts] for image in images]

    def hit(row, right, k):
        order = sorted(range(len(row)), key=lambda i: -row[i])
        return any(i in right for i in order[:k])

    captions = [{t for t, owner in enumerate(owners) if owner == i} for i in range(len(images))]

    def rank(row, right):
        order = sorted(range(len(row)), key=lambda i: -row[i])
        return min(order.index(i) for i in right) + 1

    columns = list(zip(*scores))
    return {
        "text_to_image": {
            "median_rank": np.median([rank(columns[t], {owners[t]}) for t in range(len(texts))]),
            **{
                f"recall_at_{k}": sum(hit(columns[t], {owners[t]}, k) for t in range(len(texts)))
                / len(texts)
                for k in ks
            },
        },
        "image_to_text": {
            "median_rank": np.median([rank(scores[i], captions[i]) for i in range(len(images))]),
            **{
                f"recall_at_{k}": sum(hit(scores[i], captions[i], k) for i in range(len(images)))
                / len(images)
                for k in ks
            },
        },
    }


def test_a_worked_example_with_two_captions_for_the_first_image():
    # Scores, images down and captions across; the first two captions belong to image 0:
    #           t0   t1   t2
    #   i0     0.6  0.0  0.8     best own caption t0, after t2      -> second
    #   i1     0.8  1.0  0.6     own caption t2, after t1 and t0    -> third
    # Down the columns: t0 is won by i1 (wrong), t1 by i1 (wrong), t2 by i0 (wrong): all second.
    images = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    texts = np.array([[0.6, 0.8], [0.0, 1.0], [0.8, 0.6]], np.float32)
    found = retrieval.recalls(images, texts, [0, 0, 1], ks=(1, 2, 3))
    recalls = ("recall_at_1", "recall_at_2", "recall_at_3")
    assert found["text_to_image"] == {**dict(zip(recalls, (0.0, 1.0, 1.0))), "median_rank": 2.0}
    assert found["image_to_text"] == {**dict(zip(recalls, (0.0, 0.5, 1.0))), "median_rank": 2.5}


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
        assert numbers["median_rank"] > 1.0
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
        ranks_of_images = [
            mean_rank_over_all_orders(texts @ image, set(np.flatnonzero(owners == i)))
            for i, image in enumerate(images)
        ]
        ranks_of_texts = [
            mean_rank_over_all_orders(images @ text, {owner}) for text, owner in zip(texts, owners)
        ]
        assert found["image_to_text"]["median_rank"] == pytest.approx(np.median(ranks_of_images))
        assert found["text_to_image"]["median_rank"] == pytest.approx(np.median(ranks_of_texts))


def test_a_model_that_embeds_everything_alike_scores_chance():
    alike = np.full((40, 5), 0.2, np.float32)
    found = retrieval.recalls(alike[:20], alike, np.arange(40) % 20)
    assert found["text_to_image"]["recall_at_5"] == pytest.approx(5 / 20)
    # Two of 40 captions are right: all of the first 10 are wrong with C(38, 10) / C(40, 10).
    chance = 1 - math.comb(38, 10) / math.comb(40, 10)
    assert found["image_to_text"]["recall_at_10"] == pytest.approx(chance)
    # On average the only right image of 20 is in the middle; two right captions of 40 leave runs
    # of 38 / 3 wrong ones before, between and after them.
    assert found["text_to_image"]["median_rank"] == pytest.approx(10.5)
    assert found["image_to_text"]["median_rank"] == pytest.approx(1 + 38 / 3)


def test_chance_is_what_a_model_scores_that_embeds_everything_alike():
    owners = [2, 0, 1, 1, 3, 2, 2, 0, 1, 1, 4]
    alike = np.full((len(owners), 3), 0.5, np.float32)
    expected = retrieval.recalls(alike[:5], alike, owners, ks=(1, 3, 9))
    found = retrieval.chance(owners, ks=(1, 3, 9))
    for direction, numbers in expected.items():
        renamed = {
            name.replace("recall", "chance").replace("median", "chance_median"): value
            for name, value in numbers.items()
        }
        assert found[direction] == pytest.approx(renamed)
    # Images with 2, 4, 3, 1 and 1 captions of eleven; one of them is drawn.
    assert found["image_to_text"]["chance_at_1"] == pytest.approx((2 + 4 + 3 + 1 + 1) / 11 / 5)
    assert found["text_to_image"]["chance_at_3"] == pytest.approx(3 / 5)


def test_contrastive_accuracy_equals_a_loop_over_minibatches_of_which_the_last_is_smaller():
    rng = np.random.default_rng(4)
    images = unit_rows(rng, 25, 6)
    texts = images + rng.normal(scale=0.4, size=(25, 6)).astype(np.float32)
    right = 0
    for i in range(25):
        first = i - i % 7
        scores = [float(np.dot(images[i], text)) for text in texts[first : first + 7]]
        right += max(range(len(scores)), key=scores.__getitem__) == i - first
    assert 0 < right < 25
    found = retrieval.contrastive_accuracy(images, texts, minibatch_size=7)
    # Minibatches of 7, 7, 7 and 4: by chance one image of each is right.
    assert found == {"accuracy": pytest.approx(right / 25), "chance": pytest.approx(4 / 25)}
    whole = retrieval.contrastive_accuracy(images, texts)
    recall = retrieval.recalls(images, texts, np.arange(25))["image_to_text"]["recall_at_1"]
    assert whole["accuracy"] == pytest.approx(recall) and whole["accuracy"] < right / 25


def test_equal_texts_of_a_minibatch_share_the_answer():
    images = np.eye(3, dtype=np.float32)
    found = retrieval.contrastive_accuracy(images, images[[0, 0, 2]], minibatch_size=3)
    # Image 0 is one of two with its text: 1/2. Image 1 ties with all texts: 1/3. Image 2: 1.
    assert found["accuracy"] == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)


def test_pairs_that_do_not_match_are_an_error():
    with pytest.raises(ValueError, match="3 images, 2 texts"):
        retrieval.contrastive_accuracy(np.ones((3, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="`minibatch_size` must be at least 1"):
        retrieval.contrastive_accuracy(np.ones((3, 2)), np.ones((3, 2)), minibatch_size=0)


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
    best = {"recall_at_1": 1.0, "recall_at_10": 1.0, "median_rank": 1.0}
    assert found["text_to_image"] == found["image_to_text"] == best


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
