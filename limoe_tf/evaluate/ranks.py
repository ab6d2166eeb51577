"""Where the right answer stands among all answers, for every query, ties counted exactly."""

from typing import NamedTuple

import numpy as np


class Ranks(NamedTuple):
    """What stands above the best right candidate of each query, and beside it.

    Attributes:
      better: <int64>[Q] wrong candidates that score higher.
      tied: <int64>[Q] wrong candidates that score exactly the same.
      right: <int64>[Q] right candidates that score exactly the same, itself included.
    """

    better: np.ndarray
    tied: np.ndarray
    right: np.ndarray


def embedding_matrix(name, value):
    """Returns `value` as an array if it is a matrix of finite real numbers with at least one row.

    A NaN would lose every comparison and so count as a perfect answer; hence the check.
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


def same_width(first_name, first, second_name, second):
    """Raises if two matrices do not embed into the same space."""
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"`{first_name}` and `{second_name}` must have the same number of columns. "
            f"Received: {first_name} of shape {first.shape}, {second_name} of shape {second.shape}"
        )


def rank_right(queries, candidates, query_of_pair, candidate_of_pair, *, block_size=2048):
    """Ranks the best right candidate of every query among all wrong ones, by dot product.

    Scores are float64 and two count as equal when rounding alone could part them, so equal
    embeddings always tie. No more than `block_size` squared scores exist at a time.

    Args:
      queries: <float32>[Q, Z] embeddings.
      candidates: <float32>[R, Z] embeddings.
      query_of_pair: <int64>[P] with `candidate_of_pair`, all the right (query, candidate) pairs,
        in any order; every query has at least one.
      candidate_of_pair: <int64>[P].
      block_size: queries, and candidates, compared at a time.

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
    # Two sums of Z rounded products differ by less than this when they are equal in truth.
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


def hit_chance(ranks, k):
    """Returns how likely a right candidate is among the first `k` when ties fall in random order.

    Without ties this is 1 where the rank is within `k` and 0 elsewhere. With ties it is the mean
    over all their orders, so that neither the order of the data nor the last bit of a score
    decides, and a model that embeds everything alike scores exactly what chance gives.

    Args:
      ranks: Ranks of <int64>[Q] each.
      k: number of places, at least 1; more places than candidates is allowed, and always a hit.

    Returns:
      <float64>[Q] probabilities.
    """
    places = k - ranks.better
    miss = np.ones(len(ranks.better))
    for drawn in range(k):
        # Place by place: the chance that it goes to a wrong one of those tied and still undrawn.
        wrong = np.maximum(ranks.tied - drawn, 0)
        miss *= np.where(drawn < places, wrong / np.maximum(wrong + ranks.right, 1), 1.0)
    return 1.0 - miss


def mean_rank(ranks):
    """Returns the place of the first right candidate, 1 for the best, as the mean over all orders.

    Of `tied` wrong and `right` right candidates in random order, `tied / (right + 1)` wrong ones
    stand before the first right one on average: the right ones part the wrong ones in `right + 1`
    stretches of equal mean length.

    Args:
      ranks: Ranks of <int64>[Q] each.

    Returns:
      <float64>[Q] places, of which some are not whole where candidates tie.
    """
    return 1.0 + ranks.better + ranks.tied / (ranks.right + 1.0)
