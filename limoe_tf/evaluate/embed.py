"""Computes the embeddings of an evaluation set as NumPy arrays."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from limoe_tf import checks, companions
from limoe_tf.data.bad_records import BadRecords
from limoe_tf.data.batches import evaluation_batches
from limoe_tf.data.records import Source
from limoe_tf.data.words import Vocabulary
from limoe_tf.mesh import rows


class Embedded(NamedTuple):
    """An embedded evaluation set of n images and m captions, in the order of the data.

    Attributes:
      image: <float32>[n, Z] image embeddings.
      text: <float32>[m, Z] caption embeddings; m = 0 where the data has no captions.
      image_of_text: <int64>[m] index of the image of each caption.
      features: dict of the other features of the batches, one entry per image: an array for a dense
        feature, a list of lists for a ragged one (`labels`).
    """

    image: np.ndarray
    text: np.ndarray
    image_of_text: np.ndarray
    features: dict[str, Any]


def text_encoder(
    model: Any, vocabulary: Vocabulary, *, batch_size: int = 256
) -> Callable[[Sequence[str]], np.ndarray]:
    """Returns a function that embeds strings.

    The model is called with batches of one size only, and so is compiled once: the last batch is
    padded with copies of its last string, whose embeddings are removed.

    Args:
      model: has `encode_text(text, text_valid) -> <float32>[B, Z]`.
      vocabulary: function of <string>[B] to <int32>[B, N] text and <bool>[B, N] text_valid.
      batch_size: strings embedded per call.

    Returns:
      function of a list of n >= 1 strings to <float32>[n, Z].

    Raises:
      ValueError: if the model was trained with another vocabulary.
    """
    checks.positive_int("batch_size", batch_size)
    companions.check(model, vocabulary=vocabulary)

    def encode_batch(strings):
        return model.encode_text(*vocabulary(tf.constant(strings.tolist())))

    def encode(strings):
        if isinstance(strings, (str, bytes)):
            raise TypeError(f"`strings` must be a list of strings. Received: strings={strings!r}")
        if not len(strings):
            raise ValueError(f"`strings` must not be empty. Received: strings={strings!r}")
        return _in_batches(encode_batch, np.array(list(strings), object), batch_size)

    return encode


def feature_encoder(model: Any) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function that computes the features of images before the model's head.

    Args:
      model: `Limoe` or `TwoTower`.

    Returns:
      function of images [B, H, W, 3] to <float32>[B, D], on all replicas; each new B is traced.
    """

    @tf.function(autograph=False)
    def features(images):
        with model.on_replicas():
            return model.image_features(images)

    return lambda images: rows.over_all(model.distribute_strategy, features, images)


def embed_dataset(
    model: Any,
    batches: Iterable[dict[str, tf.Tensor]],
    vocabulary: Vocabulary | None,
    *,
    text_batch_size: int = 256,
    verbose: int = 1,
) -> Embedded:
    """Embeds every image and every caption of an evaluation set exactly once.

    Args:
      model: has `encode_image(images) -> <float32>[B, Z]`, and `encode_text` for captions.
      batches: yields dicts of tensors: `image` [B, H, W, 3], optionally `captions`, a ragged
        <string>[B, (captions)], and any other features of leading size B. The last batch may be
        smaller; it is padded to the size of the first.
      vocabulary: as for `text_encoder`; not used where there are no captions.
      text_batch_size: captions embedded per call.
      verbose: as in Keras: 0 is silent, 1 a progress bar, 2 one line at the end.

    Returns:
      Embedded.

    Raises:
      ValueError: if there is no batch, a batch has no `image`, or the model was trained with
        another vocabulary.
    """
    images, captions, features = [], [], {}
    size, encode = None, text_encoder(model, vocabulary, batch_size=text_batch_size)
    progress = keras.utils.Progbar(_length(batches), verbose=verbose, unit_name="batch")
    for step, batch in enumerate(batches, start=1):
        pixels, captions_of_images, others = _take_apart(batch)
        size = size or len(pixels)
        images.append(_in_batches(model.encode_image, pixels, size))
        captions.extend(captions_of_images)
        for name, value in others.items():
            features.setdefault(name, []).append(value)
        progress.update(step, finalize=False)
    if not images:
        raise ValueError("`batches` must hold at least one batch. Received: none")
    progress.update(step, finalize=True)
    image = np.concatenate(images)
    strings = [caption for of_image in captions for caption in of_image]
    return Embedded(
        image=image,
        text=encode(strings) if strings else np.zeros((0, image.shape[1]), np.float32),
        image_of_text=np.repeat(np.arange(len(image)), [len(of_image) for of_image in captions]),
        features={name: _join(values) for name, values in features.items()},
    )


def embed_source(
    source: Source,
    model: Any,
    vocabulary: Vocabulary | None,
    *,
    feature: str,
    batch_size: int,
    resize: str,
    change: Callable[[tf.data.Dataset], Iterable[dict[str, tf.Tensor]]] = lambda batches: batches,
) -> tuple[Embedded, dict[str, dict[str, Any]]]:
    """Embeds the images of a source and, where `feature` is "captions", its captions.

    Args:
      source: see `data.batches.evaluation_batches`.
      model: has an `image_size` and what `embed_dataset` needs.
      vocabulary: see `embed_dataset`.
      feature: "captions" or "labels", which the source must have.
      batch_size: images embedded per call.
      resize: see `data.images.evaluation_image`.
      change: function applied to the dataset of batches of `image` and the feature.

    Returns:
      Embedded, and a dict: by the source's name, a dict of the numbers of `images` and `captions`,
      and a report of the `bad_records`, which are skipped.

    Raises:
      ValueError: if too many records are bad.
    """
    bad_records = BadRecords()
    batches = evaluation_batches(
        source,
        batch_size=batch_size,
        image_size=model.image_size,
        resize=resize,
        bad_records=bad_records,
    )
    batches = batches.map(lambda batch: {"image": batch["image"], feature: batch[feature]})
    with bad_records.as_value_error():
        embedded = embed_dataset(model, change(batches), vocabulary, verbose=0)
    counts = {"images": len(embedded.image), "captions": len(embedded.text)}
    return embedded, {source.name: {**counts, "bad_records": bad_records.report()}}


def _take_apart(batch):
    """Returns <uint8 or float32>[B, H, W, 3] pixels, B lists of captions, and other features."""
    others = dict(batch)
    if "image" not in others:
        raise ValueError(f"`batches` must have an image. Received: keys {sorted(others)}")
    pixels = others.pop("image").numpy()
    captions = others.pop("captions").to_list() if "captions" in others else [[]] * len(pixels)
    return pixels, captions, others


def _in_batches(encode, rows, batch_size):
    """Calls `encode` on exactly `batch_size` rows per call; repeats the last row as padding."""
    parts = []
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        filled = np.concatenate([part, np.repeat(part[-1:], batch_size - len(part), axis=0)])
        parts.append(np.asarray(encode(filled), np.float32)[: len(part)])
    return np.concatenate(parts)


def _join(values):
    """Joins the batches of a feature: an array of a dense one, a list of lists of a ragged one."""
    if isinstance(values[0], tf.RaggedTensor):
        return [row for value in values for row in value.to_list()]
    return np.concatenate([np.asarray(value) for value in values])


def _length(batches):
    """Returns the number of batches, or None if it is unknown."""
    if isinstance(batches, tf.data.Dataset):
        length = int(batches.cardinality())
        return length if length >= 0 else None
    return len(batches) if hasattr(batches, "__len__") else None
