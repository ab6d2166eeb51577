"""The image patches with an expert's highest gate probabilities, collected over a dataset."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from limoe_tf import checks
from limoe_tf.analyze.routes import Routes

_GAP, _GREY = 4, 128


class TopPatches:
    """The patches with each expert's highest gate probabilities, at most one per image.

    Args:
      num_experts: E.
      patch_size: side of a patch in pixels.
      count: patches kept for each expert.
    """

    def __init__(self, num_experts: int, *, patch_size: int, count: int = 24):
        self.num_experts = checks.positive_int("num_experts", num_experts)
        self.patch_size = checks.positive_int("patch_size", patch_size)
        self.count = checks.positive_int("count", count)
        self._kept = [[] for _ in range(num_experts)]

    def add(self, routes: Routes, images: np.ndarray) -> None:
        """Adds a batch.

        Args:
          routes: `routes.Routes` of the image tokens, <..>[B, N, K].
          images: <uint8>[B, H, W, 3].
        """
        for expert in range(self.num_experts):
            gates = np.where(routes.expert == expert, routes.gate, 0.0).max(axis=-1)
            places = gates.argmax(axis=1)
            gates = gates.max(axis=1)
            order = np.argsort(-gates, kind="stable")[: self.count]
            found = [
                (gates[i], _around(images[i], places[i], self.patch_size))
                for i in order
                if gates[i] > 0
            ]
            kept = sorted(self._kept[expert] + found, key=lambda one: -one[0])
            self._kept[expert] = kept[: self.count]

    def of(self, expert: int) -> list[np.ndarray]:
        """Returns list of <uint8>[S, S, 3], highest gate first: patches with their surroundings."""
        return [picture for _, picture in self._kept[expert]]


def _around(image, place, size):
    """Returns <uint8>[S, S, 3], S about 2 sides: a patch with its surroundings, paler."""
    columns, half = image.shape[1] // size, size // 2
    top, left = place // columns * size, place % columns * size
    margin = ((half, half), (half, half), (0, 0))
    padded = np.pad(image, margin, constant_values=_GREY)
    picture = padded[top : top + size + 2 * half, left : left + size + 2 * half]
    paler = (picture.astype(np.int32) + 2 * 255) // 3
    inside = (slice(half, half + size),) * 2
    paler[inside] = picture[inside]
    return paler.astype(np.uint8)


def grid(pictures: Sequence[np.ndarray], *, columns: int) -> np.ndarray:
    """Returns <uint8>[H, W, 3]: pictures of one size in rows, separated by grey.

    Args:
      pictures: list of n >= 1 <uint8>[S, S, 3].
      columns: pictures in a row.
    """
    side = len(pictures[0]) + _GAP
    lines = -(-len(pictures) // columns)
    sheet = np.full([lines * side + _GAP, columns * side + _GAP, 3], _GREY, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * side + _GAP, number % columns * side + _GAP
        sheet[top : top + len(picture), left : left + len(picture)] = picture
    return sheet


def jpeg(picture: np.ndarray) -> bytes:
    """Returns the bytes of a JPEG of <uint8>[H, W, 3]."""
    return tf.io.encode_jpeg(picture, quality=80, optimize_size=True).numpy()


def png(picture: np.ndarray | tf.Tensor) -> bytes:
    """Returns the bytes of a PNG of <uint8>[H, W, 3]."""
    return tf.io.encode_png(picture).numpy()
