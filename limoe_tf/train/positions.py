"""Tables of learned positions for more or fewer tokens than they were trained with.

Axis letters: N tokens, M tokens of the new table, D width.
"""

import math

import numpy as np


def resized_grid(table: np.ndarray, num_tokens: int) -> np.ndarray:
    """Returns the positions of an image's patches, interpolated for another number of patches.

    Bicubic over rows and columns: Keys' cubic with a = -0.5, half-pixel centres, no antialiasing;
    at the edges the weights of the entries that are there are divided by their sum. That is
    `tf.image.resize(..., "bicubic")`. The position of a class token stays as it is.

    Args:
      table: <float>[N, D], row by row of a square of patches, if N is no square number behind a
        class token.
      num_tokens: M, with a class token as well, or without one.

    Returns:
      <float>[M, D].

    Raises:
      ValueError: if N or M is of no square, or only one of them has a class token.

    Reference: https://arxiv.org/abs/2010.11929, section 3.2 (interpolation for a higher
      resolution); Keys, Cubic convolution interpolation for digital image processing, 1981.
    """
    old, new, first = sides_of(len(table), num_tokens)
    weights = _cubic(old, new)
    grid = table[first:].reshape(old, old, -1).astype(np.float64)
    resized = np.einsum("ij,kl,jld->ikd", weights, weights, grid)
    resized = resized.reshape(new * new, -1).astype(table.dtype)
    return np.concatenate([table[:first], resized])


def resized_line(table: np.ndarray, num_tokens: int) -> np.ndarray:
    """Returns the positions of a text for another number of tokens.

    For fewer tokens they are the first ones, which mean what they did; for more they are
    interpolated, as `resized_grid` interpolates along one axis.

    Args:
      table: <float>[N, D].
      num_tokens: M.

    Returns:
      <float>[M, D].
    """
    if num_tokens <= len(table):
        return table[:num_tokens]
    weights = _cubic(len(table), num_tokens)
    return (weights @ table.astype(np.float64)).astype(table.dtype)


def sides_of(old: int, new: int) -> tuple[int, int, int]:
    """Returns the sides of two squares of patches, and how many class tokens both have: 0 or 1.

    Args:
      old: number of tokens of an image.
      new: the same of another image size.

    Raises:
      ValueError: if one is of no square, or only one has a class token.
    """
    (old_side, first), (new_side, other) = map(_side_of, (old, new))
    if first != other:
        raise ValueError(
            "Positions of an image must have a class token in both models, or in none. "
            f"Received: {old} and {new} positions"
        )
    return old_side, new_side, first


def _side_of(num_tokens):
    """Returns the side of a square of patches, and whether a class token comes before them."""
    for first in (0, 1):
        side = math.isqrt(max(num_tokens - first, 0))
        if side and side * side + first == num_tokens:
            return side, first
    raise ValueError(
        f"Positions of an image must be those of a square of patches. Received: {num_tokens}"
    )


def _cubic(old, new):
    """Returns <float64>[new, old]: the weights of the old entries in each new one."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    distance = np.abs(centres[:, np.newaxis] - np.arange(old))
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)
