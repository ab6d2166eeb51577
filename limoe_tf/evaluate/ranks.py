"""The rank of the right answer among all answers, for every query, with exact treatment of ties."""

from typing import NamedTuple

import numpy as np


class Ranks(NamedTuple):
    """Numbers of candidates ranked above, or tied with, the best right candidate of each query.

    Attributes:
      better: <int64>[Q] wrong candidates that score higher.
      tied: <int64>[Q] wrong candidates that score exactly the same.
      right: <int64>[Q] right candidates that score exactly the same, itself included.
    """

    better: np.ndarray
    tied: np.ndarray
    right: np.ndarray


def embedding_matrix(name: str, value: np.ndarray) -> np.ndarray:
    """Returns `value` as an array if it is a matrix of finite real numbers with at least one row.

    Comparisons with NaN are all false, so a NaN would count as a perfect answer.
    """
    value = np.asarray(value)
    if value.dtype.kind != "f":
        raise TypeError(f"`{name}` must be floating point. Received: {name} of {value.dtype}")
    if value.ndim != 2 or 0 in value.shape:
        raise ValueError(
            f"`{name}` must have shape [rows, Z] with at least one row. "
            f"Received: {name} of shape {value.shape}"
        )
    if not np.isfinite(value.sum(axis=1, dtype=np.float64)).all():
        raise ValueError(f"`{name}` must be finite. Received: {name} with infinity or NaN")
    return value


def same_width(first_name: str, first: np.ndarray, second_name: str, second: np.ndarray) -> None:
    """Raises if two matrices do not embed into the same space."""
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"`{first_name}` and `{second_name}` must have the same number of columns. "
            f"Received: {first_name} of shape {first.shape}, {second_name} of shape {second.shape}"
        )


def rank_right(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_of_pair: np.ndarray,
    candidate_of_pair: np.ndarray,
    *,
    block_size: int = 2048,
) -> Ranks:
    """Ranks the best right candidate of every query among all wrong ones, by dot product.

    Scores are float64, and two scores are equal if they differ by no more than rounding, so equal
    embeddings always tie. At most `block_size` squared scores are in memory at a time.

    Args:
      queries: <float32>[Q, Z] embeddings.
      candidates: <float32>[R, Z] embeddings.
      query_of_pair: <int64>[P], with `candidate_of_pair` all right (query, candidate) pairs, in any
        order; every query has at least one.
      candidate_of_pair: <int64>[P].
      block_size: queries, and candidates, compared per block.

    Returns:
      Ranks of <int64>[Q] each.
    """
    pairs = np.unique(np.asarray(query_of_pair, np.int64) * len(candidates) + candidate_of_pair)
    query, candidate = np.divmod(pairs, len(candidates))
    squares = np.einsum("rz,rz->r", candidates, candidates, dtype=np.float64)
    counts = np.empty((3, len(queries)), np.int64)
    for start in range(0, len(queries), block_size):
        stop = start + block_size
        inside = slice(*np.searchsorted(query, (start, stop)))
        counts[:, start:stop] = _rank_block(
            queries[start:stop].astype(np.float64),
            candidates,
            query[inside] - start,
            candidate[inside],
            largest=np.sqrt(squares.max()),
            block_size=block_size,
        )
    return Ranks(*counts)


def _rank_block(queries, candidates, query, candidate, *, largest, block_size):
    """Returns `better`, `tied` and `right` for a block of queries."""
    # Two sums of Z rounded products differ by less than this if the exact sums are equal.
    rounding = 2 * queries.shape[1] * np.finfo(np.float64).eps
    margin = rounding * largest * np.linalg.norm(queries, axis=1)
    right_scores = np.einsum("pz,pz->p", queries[query], candidates[candidate].astype(np.float64))
    best = np.full(len(queries), -np.inf)
    np.maximum.at(best, query, right_scores)
    high, low = best + margin, best - margin
    right = np.bincount(query[right_scores >= low[query]], minlength=len(queries))

    better = np.zeros(len(queries), np.int64)
    as_good = np.zeros(len(queries), np.int64)
    for start in range(0, len(candidates), block_size):
        stop = start + block_size
        scores = queries @ candidates[start:stop].astype(np.float64).T
        inside = (candidate >= start) & (candidate < stop)
        scores[query[inside], candidate[inside] - start] = -np.inf
        better += np.count_nonzero(scores > high[:, None], axis=1)
        as_good += np.count_nonzero(scores >= low[:, None], axis=1)
    return better, as_good - better, right


def hit_chance(ranks: Ranks, k: int) -> np.ndarray:
    """Returns the probability that a right candidate is in the top `k`, with ties in random order.

    Without ties this is 1 where the rank is within `k` and 0 elsewhere. With ties it is the mean
    over all their orders, so that the result depends neither on the order of the data nor on the
    last bit of a score, and a model with constant embeddings scores exactly at chance level.

    Args:
      ranks: Ranks of <int64>[Q] each.
      k: at least 1; more than the number of candidates is allowed, and always a hit.

    Returns:
      <float64>[Q] probabilities.
    """
    places = k - ranks.better
    miss = np.ones(len(ranks.better))
    for drawn in range(k):
        # Rank by rank: the probability that a wrong one of the remaining tied candidates gets it.
        wrong = np.maximum(ranks.tied - drawn, 0)
        miss *= np.where(drawn < places, wrong / np.maximum(wrong + ranks.right, 1), 1.0)
    return 1.0 - miss


def mean_rank(ranks: Ranks) -> np.ndarray:
    """Returns the rank of the first right candidate, 1 for the best, as the mean over all orders.

    Of `tied` wrong and `right` right candidates in random order, `tied / (right + 1)` wrong ones
    precede the first right one on average: the right ones split the wrong ones into `right + 1`
    runs of equal mean length.

    Args:
      ranks: Ranks of <int64>[Q] each.

    Returns:
      <float64>[Q] ranks, which may be fractional if candidates tie.
    """
    return 1.0 + ranks.better + ranks.tied / (ranks.right + 1.0)
