"""Tables of learned positions for more or fewer tokens than they were trained with.

Axis letters: N tokens, M tokens of the new table, D width.
"""

import math

import numpy as np


def resized_grid(table: np.ndarray, num_tokens: int) -> np.ndarray:
    """Returns the positions of an image's patches, interpolated for another number of patches.

    Bicubic over rows and columns: Keys' cubic with a = -0.5, half-pixel centres, no antialiasing;
    at the edges the weights of the entries that are there are divided by their sum. That is
    `tf.image.resize(..., "bicubic")`. There is no class token, which would be kept apart.

    Args:
      table: <float>[N, D], row by row of a square of patches.
      num_tokens: M, as well a square.

    Returns:
      <float>[M, D].

    Raises:
      ValueError: if N or M is not a square number.

    Reference: https://arxiv.org/abs/2010.11929, section 3.2 (interpolation for a higher
      resolution); Keys, Cubic convolution interpolation for digital image processing, 1981.
    """
    old, new = side_of(len(table)), side_of(num_tokens)
    weights = _cubic(old, new)
    grid = table.reshape(old, old, -1).astype(np.float64)
    resized = np.einsum("ij,kl,jld->ikd", weights, weights, grid)
    return resized.reshape(num_tokens, -1).astype(table.dtype)


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


def side_of(num_tokens: int) -> int:
    """Returns the side of a square of `num_tokens` patches.

    Raises:
      ValueError: if they make no square.
    """
    side = math.isqrt(num_tokens)
    if side * side != num_tokens:
        raise ValueError(
            f"Positions of an image must be those of a square of patches. Received: {num_tokens}"
        )
    return side


def _cubic(old, new):
    """Returns <float64>[new, old]: the weights of the old entries in each new one."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    distance = np.abs(centres[:, np.newaxis] - np.arange(old))
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)
