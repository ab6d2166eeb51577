"""K-means in NumPy: the centres of samples, and the nearest of them.

Axis letters: n samples, K centres, F features of a sample.
"""

import numpy as np

from limoe_tf import checks

_ROUNDS = 40


def fit(samples: np.ndarray, num_codes: int, *, seed: int = 0) -> np.ndarray:
    """Returns centres <float32>[K, F] of k-means, begun as k-means++ does.

    A centre without samples is moved to the sample that is farthest from its own.

    Args:
      samples: <float32>[n, F].
      num_codes: K; there must be as many different samples.
      seed: of the first centres.

    Raises:
      ValueError: if there are fewer different samples than codes.

    Reference: Lloyd, Least squares quantization in PCM, 1982; Arthur and Vassilvitskii,
      k-means++: the advantages of careful seeding, 2007.
    """
    checks.positive_int("num_codes", num_codes)
    samples = np.asarray(samples, np.float32)
    rng = np.random.default_rng(seed)
    centres = samples[rng.integers(len(samples))][np.newaxis]
    distance = _to(samples, centres[0])
    while len(centres) < num_codes:
        total = distance.sum(dtype=np.float64)
        if not total > 0:
            raise ValueError(
                "`num_codes` must be at most the number of patches that look different. "
                f"Received: num_codes={num_codes} for {len(centres)}"
            )
        drawn = rng.choice(len(samples), p=distance.astype(np.float64) / total)
        centres = np.concatenate([centres, samples[drawn][np.newaxis]])
        distance = np.minimum(distance, _to(samples, centres[-1]))
    for _ in range(_ROUNDS):
        distances = _squares(samples, centres)
        own = distances.argmin(axis=1)
        counts = np.bincount(own, minlength=num_codes)
        sums = np.stack(
            [np.bincount(own, column, minlength=num_codes) for column in samples.T], axis=1
        )
        moved = (sums / np.maximum(counts, 1)[:, np.newaxis]).astype(np.float32)
        empty = np.flatnonzero(counts == 0)
        far = np.argsort(-distances.min(axis=1), kind="stable")[: len(empty)]
        moved[empty] = samples[far]
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def nearest(samples: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Returns the number of the nearest centre of each sample.

    Args:
      samples: <float32>[..., F].
      centres: <float32>[K, F].

    Returns:
      <int32>[...].
    """
    flat = samples.reshape(-1, samples.shape[-1])
    parts = np.array_split(flat, -(-len(flat) // 100_000))
    found = [_squares(part, centres).argmin(axis=1) for part in parts]
    return np.concatenate(found).reshape(samples.shape[:-1]).astype(np.int32)


def _to(samples, centre):
    """Returns squared distances <float32>[n]; 0 to equals, which `_squares` gives roughly."""
    return ((samples - centre) ** 2).sum(axis=1)


def _squares(samples, centres):
    """Returns squared distances <float32>[n, K], at least 0."""
    squares = (samples**2).sum(1)[:, np.newaxis] - 2 * samples @ centres.T + (centres**2).sum(1)
    return np.maximum(squares, 0)
