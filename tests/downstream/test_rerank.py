import numpy as np
import pytest

from limoe_tf.downstream import rerank
from limoe_tf.evaluate import retrieval


def embeddings(count=40, per_image=3, width=6):
    rng = np.random.default_rng(0)
    images = rng.normal(size=[count, width])
    owner = rng.permutation(np.repeat(np.arange(count), per_image))
    texts = images[owner] + 1.5 * rng.normal(size=[len(owner), width])
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (images, texts)]
    return *(part.astype("float32") for part in unit), owner


def test_the_nearest_are_those_of_a_whole_sort():
    images, texts, _ = embeddings()
    expected = np.argsort(-(texts @ images.T), axis=1)
    for k in (1, 7, len(images)):
        np.testing.assert_array_equal(rerank.nearest(texts, images, k), expected[:, :k])


def test_with_an_oracle_recall_at_1_is_recall_at_k_of_the_dual_encoder():
    images, texts, owner = embeddings()
    ways = {
        "text_to_image": (texts, images, lambda text, image: owner[text] == image),
        "image_to_text": (images, texts, lambda image, text: owner[text] == image),
    }
    for k in (1, 5, 10):
        dual = retrieval.recalls(images, texts, owner, ks=(k,))
        for way, (queries, candidates, is_right) in ways.items():
            order = rerank.nearest(queries, candidates, k)
            again = rerank.reranked(order, lambda q, c: is_right(q, c).astype("float32"))  # noqa: B023
            found = rerank.recalls(again, is_right, (1,))
            assert found["recall_at_1"] == pytest.approx(dual[way][f"recall_at_{k}"])
            assert 0 < found["recall_at_1"] < 1 or k == 10


def test_equal_scores_keep_the_order_of_the_dual_encoder():
    images, texts, _ = embeddings()
    order = rerank.nearest(texts, images, 10)
    again = rerank.reranked(order, lambda query, _: np.zeros(len(query)))
    np.testing.assert_array_equal(again, order)


def test_the_judge_is_asked_of_each_candidate_of_each_query():
    order, asked = np.array([[3, 1], [0, 2]]), []

    def judge(query, candidate):
        asked.extend(zip(query.tolist(), candidate.tolist()))
        return np.array([0.1, 0.4, 0.3, 0.2])

    np.testing.assert_array_equal(rerank.reranked(order, judge), [[1, 3], [0, 2]])
    assert asked == [(0, 3), (0, 1), (1, 0), (1, 2)]


def test_fewer_candidates_than_are_counted_are_refused():
    class Source:
        has_captions, name = True, "some"

    with pytest.raises(ValueError, match="`num_candidates` must be .* 10"):
        rerank.RerankedRetrieval(Source(), num_candidates=5)
