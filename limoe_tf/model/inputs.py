"""What a batch must be: its keys, dtypes and, where they are known, its values."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def check_keys(batch: Mapping[str, tf.Tensor], modalities: Sequence[str]) -> None:
    """Raises ValueError unless the batch holds what a model of these modalities reads."""
    known = {"image": {"image"}, "text": {"text", "text_valid"}}
    unknown = set(batch) - set().union(*(known[name] for name in modalities))
    incomplete = ("text" in batch) != ("text_valid" in batch)
    if unknown or incomplete or not {"image", "text"} & set(batch):
        raise ValueError(
            "A batch holds `image`, or `text` and `text_valid`, or all three. "
            f"Received: keys={sorted(batch)} for modalities={modalities}"
        )


def check_valid(valid: tf.Tensor, text: tf.Tensor) -> None:
    """Raises TypeError or ValueError unless `valid` is <bool> of the shape of `text`."""
    dtype = keras.backend.standardize_dtype(valid.dtype)
    if dtype != "bool":
        raise TypeError(f"`text_valid` must be bool. Received: dtype={dtype}")
    if tuple(valid.shape) != tuple(text.shape):
        raise ValueError(
            "`text_valid` must have the shape of `text`. "
            f"Received: shape={tuple(valid.shape)} for {tuple(text.shape)}"
        )


def check_values(batch: Mapping, vocabulary_size: int) -> None:
    """Raises unless values of a batch, where they are known, are pixels and ids.

    Args:
      batch: dict of NumPy arrays or tensors; those in a graph pass.
      vocabulary_size: number of word pieces.

    Raises:
      TypeError: if `text` is of strings.
      ValueError: if images of floats are far from [-1, 1], ids are not in the vocabulary, or there
        are more examples of one kind than of another.
    """
    lengths = {name: len(one) for name, one in batch.items() if isinstance(one, np.ndarray)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"A batch must have as many of each. Received: lengths={lengths}")
    if "image" in batch:
        check_floats(batch["image"])
    if "text" in batch:
        check_ids(batch["text"], vocabulary_size)


def _known(values):
    """Returns a NumPy array of values that are known and some; None in a graph."""
    if isinstance(values, (list, tuple)) or hasattr(values, "numpy"):
        values = np.asarray(values)
    return values if isinstance(values, np.ndarray) and values.size else None


# Standardized pixels stay below this, and a picture in 0..255 is hardly ever so dark.
_LARGEST_PIXEL = 16


def check_floats(images: Any) -> None:
    """Raises ValueError if images of floats, where they are known, look like 0..255."""
    # Pixels on an accelerator need not be copied to be looked at.
    images = None if getattr(images, "dtype", None) == "uint8" else _known(images)
    if images is None or images.dtype.kind in "uiOSU":
        return
    largest = max(float(images.max()), -float(images.min()))
    if largest > _LARGEST_PIXEL:
        raise ValueError(
            "`image` of floats must be in [-1, 1]; pixels in 0..255 must be uint8. "
            f"Received: a value of {largest:g}"
        )


def scaled(images: tf.Tensor) -> tf.Tensor:
    """Returns <uint8> images as <float32> in [-1, 1]; those of floats as they are."""
    return tf.cast(images, tf.float32) / 127.5 - 1 if images.dtype == tf.uint8 else images


def in_patches(images: tf.Tensor, size: int) -> tf.Tensor:
    """Returns images cut into squares, row by row.

    Args:
      images: <float>[B, H, W, C].
      size: side of a square in pixels, which divides H and W.

    Returns:
      <float>[B, H / size * W / size, size^2, C].
    """
    _, height, width, channels = images.shape
    rows, columns = height // size, width // size
    patches = tf.reshape(images, [-1, rows, size, columns, size, channels])
    patches = tf.transpose(patches, [0, 1, 3, 2, 4, 5])
    return tf.reshape(patches, [-1, rows * columns, size * size, channels])


def check_ids(text: Any, vocabulary_size: int) -> None:
    """Raises TypeError or ValueError unless texts, where they are known, are ids of pieces."""
    text = _known(text)
    if text is None:
        return
    if text.dtype.kind in "OSU":
        raise not_ids("string")
    if text.dtype.kind in "ui" and (text.min() < 0 or text.max() >= vocabulary_size):
        raise ValueError(
            f"`text` must be ids from 0 to {vocabulary_size - 1}, as vocabulary_size="
            f"{vocabulary_size}. Received: ids from {text.min()} to {text.max()}"
        )


def not_ids(dtype: str) -> TypeError:
    """Returns the error for texts of a dtype that is none of ids."""
    return TypeError(
        "`text` must be integer ids, such as `data.words.Vocabulary` makes of strings. "
        f"Received: dtype={dtype}"
    )
