"""Retrieval by a dual encoder, whose first candidates are ranked again by a judge of pairs.

Axis letters: n images, m captions, Q queries, k candidates of each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import evaluation_batches
from limoe_tf.data.records import Source
from limoe_tf.data.words import Vocabulary
from limoe_tf.evaluate import look, retrieval
from limoe_tf.evaluate.embed import embed_dataset
from limoe_tf.mesh import rows

_BLOCK = 1024


def nearest(queries: np.ndarray, candidates: np.ndarray, k: int) -> np.ndarray:
    """Returns <int64>[Q, k]: the candidates with the largest dot products, the largest first.

    Args:
      queries: <float32>[Q, Z].
      candidates: <float32>[R, Z].
      k: at most R.
    """
    found = []
    for start in range(0, len(queries), _BLOCK):
        scores = queries[start : start + _BLOCK] @ candidates.T
        first = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(scores, first, 1), axis=1, kind="stable")
        found.append(np.take_along_axis(first, order, 1))
    return np.concatenate(found)


def reranked(
    candidates: np.ndarray, judge: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> np.ndarray:
    """Returns the candidates of each query, <int64>[Q, k], by falling score of the judge.

    Args:
      candidates: <int64>[Q, k].
      judge: function of the numbers of P queries and of P candidates to <float>[P]. Equal scores
        keep their order.
    """
    count, k = candidates.shape
    scores = judge(np.repeat(np.arange(count), k), candidates.ravel()).reshape(count, k)
    return np.take_along_axis(candidates, np.argsort(-scores, axis=1, kind="stable"), 1)


def recalls(
    order: np.ndarray, is_right: Callable[[np.ndarray, np.ndarray], np.ndarray], ks: Sequence[int]
) -> dict[str, float]:
    """Returns how often a right candidate is among the first k, by names such as `recall_at_1`.

    Args:
      order: <int64>[Q, k], the best first.
      is_right: function of the numbers of queries <int64>[Q, 1] and of candidates <int64>[Q, k] to
        <bool>[Q, k].
      ks: values of k.
    """
    right = is_right(np.arange(len(order))[:, np.newaxis], order)
    return {f"recall_at_{k}": float(right[:, :k].any(axis=1).mean()) for k in ks}


class RerankedRetrieval:
    """Recall at 1, 5 and 10 of a `RetrievalModel`: of its dual encoder, and of both together.

    Args:
      source: with images and captions.
      num_candidates: k of each query that are judged; 10 or more.
      batch_size: images or pairs of a call; does not affect the result.
      resize: see `data.images.evaluation_image`.

    Reference: https://arxiv.org/abs/2111.02358, section 4.1.
    """

    def __init__(
        self,
        source: Source,
        *,
        num_candidates: int = 32,
        batch_size: int = 256,
        resize: str = "resize",
    ):
        self.source = look.with_captions(source)
        self.num_candidates = checks.integer_in("num_candidates", num_candidates, 10)
        self.batch_size = checks.positive_int("batch_size", batch_size)
        self.resize = resize
        self.read = {}

    def check(self, model: Any) -> None:
        """Raises ValueError if images and captions cannot be read."""
        look.first(self.source, model, resize=self.resize)

    def __call__(self, model: Any, vocabulary: Vocabulary) -> dict[str, Any]:
        """Returns `dual_encoder` and `reranked`, each with both ways, and the `chance` levels."""
        bad_records, images, captions = BadRecords(), [], []

        def kept(batches):
            for batch in batches:
                images.append(batch["image"].numpy())
                captions.extend(text for texts in batch["captions"].to_list() for text in texts)
                yield {name: batch[name] for name in ("image", "captions")}

        batches = evaluation_batches(
            self.source,
            batch_size=self.batch_size,
            image_size=model.image_size,
            resize=self.resize,
            bad_records=bad_records,
        )
        with bad_records.as_value_error():
            found = embed_dataset(model, kept(batches), vocabulary, verbose=0)
        counts = {"images": len(found.image), "captions": len(found.text)}
        self.read = {self.source.name: {**counts, "bad_records": bad_records.report()}}
        images, captions = np.concatenate(images), np.array(captions, object)
        judge = self._judge(model, vocabulary, images, captions)
        owner = found.image_of_text
        ways = {
            "text_to_image": (
                found.text,
                found.image,
                lambda text, image: judge(image, text),
                lambda text, image: owner[text] == image,
            ),
            "image_to_text": (found.image, found.text, judge, lambda i, text: owner[text] == i),
        }
        again = {}
        for way, (queries, candidates, of_pair, is_right) in ways.items():
            k = min(self.num_candidates, len(candidates))
            order = reranked(nearest(queries, candidates, k), of_pair)
            again[way] = recalls(order, is_right, (1, 5, 10))
        return {
            "dual_encoder": retrieval.recalls(found.image, found.text, owner),
            "reranked": again,
            "chance": retrieval.chance(owner),
        }

    def _judge(self, model, vocabulary, images, captions):
        """Returns the function of the numbers of images and of captions to scores of the pairs."""

        @tf.function(autograph=False)
        def scores(batch):
            with model.on_replicas():
                logits, _ = model.matching_logits(batch, training=False)
            return tf.cast(logits[:, 1] - logits[:, 0], tf.float32)

        text, valid = (part.numpy() for part in vocabulary(tf.constant(captions.tolist())))

        def judge(image, caption):
            parts = []
            for start in range(0, len(image), self.batch_size):
                place = slice(start, start + self.batch_size)
                # The last batch is filled up: each new size would be traced.
                missing = self.batch_size - len(image[place])
                own, other = (np.pad(part[place], (0, missing)) for part in (image, caption))
                batch = {"image": images[own], "text": text[other], "text_valid": valid[other]}
                found = rows.over_all(model.distribute_strategy, scores, batch).numpy()
                parts.append(found[: self.batch_size - missing])
            return np.concatenate(parts)

        return judge
